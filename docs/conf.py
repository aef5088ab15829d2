"""Sphinx: Markdown pages, API from docstrings, commands from click, furo as theme.

sphinx-build -W --keep-going -b html docs build/site
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from importlib.metadata import version as installed  # noqa: E402

project = "lesff"
author = "The lesff developers"
copyright = author  # noqa: A001 - a name of Sphinx
release = installed("lesff")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_click",
    "sphinx_design",
    "model_pages",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples"]
master_doc = "index"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# links between docstrings are for readers of the source, too: not all lead to a page
nitpicky = False

html_theme = "furo"
html_title = "lesff"
html_show_sourcelink = False
# nothing is fetched by a reader's browser but MathJax on pages with equations
html_theme_options = {
    "source_repository": "",
    "navigation_with_keys": True,
}
