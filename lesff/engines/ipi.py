"""i-PI: path integrals and all else that it runs, in its process or through a socket.

The driver (:mod:`lesff.engines.ipi_driver`) is loaded by i-PI by its path. In its process,
``<ffdirect>`` with ``batch_size`` gives it all beads of a ring polymer at once, which is several
times faster than one by one for small systems.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from xml.sax.saxutils import escape, quoteattr

from lesff.errors import ConfigError, MissingDependencyError


def driver_path() -> Path:
    """The file for ``<pes_path>`` and ``i-pi-driver-py -P``."""
    return Path(__file__).with_name("ipi_driver.py")


def ffdirect(
    template: str | Path, model: str, *, name: str = "lesff", batch_size: int = 1, **options: Any
) -> str:
    """The ``<ffdirect>`` element of an input file of i-PI.

    Args:
        template: File with the atoms in i-PI's order.
        model: Name of the model.
        name: Name of the force field, which ``<force forcefield="...">`` refers to.
        batch_size: Configurations per evaluation: the number of beads, or one that divides it.
        **options: Of :class:`lesff.engines.ipi_driver.LesffDriver`.

    Raises:
        ConfigError: for text that i-PI's parameters cannot hold.
    """
    parameters = {"template": str(template), "model": model, **options}
    for key, value in parameters.items():
        if any(mark in str(value) for mark in ",{}"):
            raise ConfigError(f"`{key}` must be without commas and braces for i-PI, got {value!r}")
    listed = ", ".join(f"{key}: {value}" for key, value in parameters.items())
    return (
        f"<ffdirect name={quoteattr(name)} pbc='false' threaded='false'>\n"
        f"  <pes>custom</pes> <pes_path>{escape(str(driver_path()))}</pes_path>\n"
        f"  <batch_size>{batch_size}</batch_size>\n"
        f"  <parameters>{{{escape(listed)}}}</parameters>\n"
        "</ffdirect>"
    )


def run_socket_driver(
    template: str | Path,
    model: str,
    *,
    address: str,
    port: int | None = None,
    **options: Any,
) -> NoReturn:
    """Become the client of an i-PI that waits at a socket; this process is replaced.

    Args:
        template: File with the atoms in i-PI's order.
        model: Name of the model.
        address: Name of a Unix socket, or a host together with ``port``.
        port: Of an internet socket.
        **options: Of :class:`lesff.engines.ipi_driver.LesffDriver`.

    Raises:
        MissingDependencyError: if i-PI is not installed.
    """
    # beside this Python first: another i-PI may be on the path
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    script = shutil.which("i-pi-driver-py", path=places)
    if find_spec("ipi") is None or script is None:
        raise MissingDependencyError(
            'i-PI is not installed; install it with `pip install "lesff[ipi]"`'
        )
    parameters = {"template": str(template), "model": model, **options}
    listed = ",".join(f"{key}={value}" for key, value in parameters.items() if value is not None)
    where = ["-u"] if port is None else ["-p", str(port)]
    arguments = ["-a", address, *where, "-m", "custom", "-P", str(driver_path()), "-o", listed]
    os.execv(sys.executable, [sys.executable, script, *arguments])  # noqa: S606 - the same Python
