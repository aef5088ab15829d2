"""Average the weights of two models, one trained on from the other.

    python tools/average.py EARLIER LATER --share 0.8 -o OUT

Weights = EARLIER + share (LATER - EARLIER) (Wortsman et al., arXiv 2109.01903). If LATER has
another charge head, the one that EARLIER is given leaves its energies as they are: its output
weights are zero, and what comes before these is that of LATER.
"""

import argparse
from pathlib import Path

import torch

from lesff.errors import ConfigError
from lesff.model_folder.folder import load_model, save_model
from lesff.potential.edit import with_head

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description="Average the weights of two models.")
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of the later model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    earlier, later = load_model(options.earlier), load_model(options.later)
    trained = set(earlier.state_dict())
    if later.config.long_range is not None:
        earlier = with_head(earlier, later.config.long_range.head)
    before, after = dict(earlier.named_parameters()), dict(later.named_parameters())
    if odd := before.keys() ^ after.keys():
        raise ConfigError(f"the models must have the same weights, got {', '.join(sorted(odd))}")
    with torch.no_grad():
        for name, parameter in after.items():
            if name in trained or not bool(before[name].any()):
                parameter.lerp_(before[name], 1.0 - options.share)
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    card = (options.later / "README.md").read_text(encoding="utf-8")
    save_model(later, options.output, card=card, license_text=license_text)


if __name__ == "__main__":
    main()
