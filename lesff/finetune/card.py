"""Model card of a finetuned model."""

from __future__ import annotations

from typing import Any

from lesff.finetune.report import Outcome
from lesff.finetune.start import Base
from lesff.model_folder.card import front_matter, license_of, with_front_matter

_CARD = """# {base}, {verb} {n_train} frames

{start} **{base}** on {n_train} frames; {n_validation} frames chose the weights
{test}. Strategy: {strategy}. Data SHA-256: `{data_hash}`.

The licence is inherited from the base model (file `LICENSE`); what the training data allow is for
their owner to say.

{verdict}

| validation | energy RMSE, meV/atom | forces RMSE, meV/A |
|---|---|---|
| base | {base_energy:.3f} | {base_forces:.2f} |
| base, reference energies refitted | {refit_energy:.3f} | {base_forces:.2f} |
| this model | {energy:.3f} | {forces:.2f} |

Level of theory of the base model: {level}. That of the finetuning data is whatever made them.
Energy zero: {reference}; reference energies moved by {shift}.

```
{command}
```
"""


def finetuned_card(base: Base, outcome: Outcome, report: dict[str, Any]) -> str:
    """The card, Markdown."""
    table = report["errors"]["validation"]["all"]
    is_random = outcome.options["random_start"]
    counts = outcome.split["counts"]
    test = f"and {counts['test']} were only reported on" if counts["test"] else "(none for a test)"
    verb = "weights drawn anew for" if is_random else "finetuned on"
    facts = {
        "name": f"{base.short_name}-finetuned",
        "license": license_of(base.card),
        "library_name": "lesff",
        "base_model": base.name,
        "citation": front_matter(base.card).get("citation") or f"lesff {base.name}",
        "description": f"{base.name}, {verb} {counts['train']} frames",
    }
    text = _CARD.format(
        base=base.name,
        verb=verb,
        start="Weights drawn anew for the architecture of" if is_random else "Finetuned from",
        n_train=counts["train"],
        n_validation=counts["validation"],
        test=test,
        strategy=outcome.options["strategy"],
        data_hash=outcome.split["data_sha256"],
        verdict="\n".join(f"- {line}" for line in report["verdict"]),
        base_energy=table["base"]["energy_rmse"],
        base_forces=table["base"]["forces_rmse"],
        refit_energy=table["base, energies refitted"]["energy_rmse"],
        energy=table["finetuned"]["energy_rmse"],
        forces=table["finetuned"]["forces_rmse"],
        level=base.potential.config.level_of_theory,
        reference=base.potential.config.energy_reference,
        shift=outcome.shift.text(),
        command=outcome.command,
    )
    return with_front_matter(facts, text)
