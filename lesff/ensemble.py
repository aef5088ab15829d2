"""Ensembles: several models as one, with the spread of what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesff.model import Model, load
from lesff.potential.ensemble import Ensemble


class EnsembleModel(Model):
    """Several loaded models as one; predicts means, and spreads as ``energy_spread`` and so on.

    Args:
        models: At least two models that are alike, see
            :class:`lesff.potential.ensemble.Ensemble`.

    Raises:
        ConfigError: naming all that they do not have in common.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        potential = Ensemble([model.potential for model in models])
        caveats = {name: why for model in models for name, why in model.source.caveats.items()}
        name = f"ensemble of {', '.join(model.name for model in models)}"
        source = replace(
            models[0].source, name=name, version=None, origin="folder", caveats=caveats
        )
        super().__init__(potential, source)
        self.models = list(models)

    @property
    def card(self) -> str:
        """The card of the first member, with a sentence about the others."""
        text = (
            f"\nThis folder holds several models, of which this is the card of the first: an "
            f"{self.name}. Predictions are means; `energy_spread`, `forces_spread` and so on are "
            "standard deviations (N - 1) over the members.\n"
        )
        return self.models[0].card + text

    @property
    def license_text(self) -> str:
        """The licences of all members in full, each once."""
        texts = dict.fromkeys(model.license_text for model in self.models)
        return "\n\n".join(texts)


def load_ensemble(names: Sequence[str | Path], **options: Any) -> EnsembleModel:
    """Load several models by name as one.

    Forces are those of the mean energy; neighbours are searched once for all members. The result is
    saved as one folder (``save``), which :func:`lesff.load` reads.

    >>> import lesff
    >>> from ase.build import molecule
    >>> both = lesff.load_ensemble(["off-small@1.1.0", "off-small@1.2.0"])
    >>> p = both.predict(molecule("H2O"), ["energy", "energy_spread"])
    >>> p.energy_spread < 1e-9  # the same weights, and no crystal
    True

    Args:
        names: At least two, each as for :func:`lesff.load`.
        **options: As for :func:`lesff.load`.

    Raises:
        ConfigError: for fewer than two, or naming what members do not have in common: elements,
            cutoff, total charges and multiplicities, energy zero, level of theory, quantities.
        LesffError: as :func:`lesff.load`.
    """
    return EnsembleModel([load(name, **options) for name in names])
