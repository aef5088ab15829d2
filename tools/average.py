"""Average the weights of two models, one trained on from the other.

    python tools/average.py EARLIER LATER --share 0.8 -o OUT

A stage of a recipe does the same with its section ``average``: :mod:`lesff.train.average`.
"""

import argparse
from pathlib import Path

from lesff.model_folder.folder import load_model, save_model
from lesff.train.average import average_weights

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description="Average the weights of two models.")
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the later model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    model = average_weights(load_model(options.earlier), load_model(options.later), options.share)
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    card = (options.later / "README.md").read_text(encoding="utf-8")
    save_model(model, options.output, card=card, license_text=license_text)


if __name__ == "__main__":
    main()
