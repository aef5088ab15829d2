"""Model card of a finetuned model."""

from __future__ import annotations

import math
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

{table}

RMSE; ratios with their 95 % interval by a paired bootstrap over frames.

Level of theory of the base model: {level}. That of the finetuning data is whatever made them.
Energy zero: {reference}; reference energies moved by {shift}.

```
{command}
```
"""


def finetuned_card(base: Base, outcome: Outcome, report: dict[str, Any]) -> str:
    """The card, Markdown."""
    is_random = outcome.options["random_start"]
    counts = outcome.split["counts"]
    test = f"and {counts['test']} were only reported on" if counts["test"] else "(none for a test)"
    verb = "weights drawn anew for" if is_random else "finetuned on"
    if report["returned"] == "base":
        verb = "unchanged: the mean verdict was not better after training on"
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
        table=_verdict_table(report),
        level=base.potential.config.level_of_theory,
        reference=base.potential.config.energy_reference,
        shift=outcome.shift.text() if report["returned"] == "finetuned" else "none",
        command=outcome.command,
    )
    return with_front_matter(facts, text)


def _verdict_table(report: dict[str, Any]) -> str:
    """Verdicts of every label, Markdown."""
    lines = [
        "| frames | label | base | base, energies refitted | finetuned | ratio to base | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, rows in report["verdicts"].items():
        for label, row in rows.items():
            first, second = row["against_base"], row["against_refitted"]
            interval = "" if math.isnan(first["low"]) else (
                f" [{first['low']:.3g}, {first['high']:.3g}]"
            )  # fmt: skip
            name = "not to be forgotten" if part == "known" else part
            lines.append(
                f"| {name} ({first['n_frames']}) | {label}, {row['unit']} | {first['before']:.4g} "
                f"| {second['before']:.4g} | {first['after']:.4g} "
                f"| {first['ratio']:.3g}{interval} | {row['verdict']} |"
            )
    return "\n".join(lines)
