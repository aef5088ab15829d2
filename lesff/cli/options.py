"""Options that several commands have."""

from __future__ import annotations

import click

accept_license_option = click.option(
    "--accept-license", is_flag=True, help="Accept the licence of the model; asked for once."
)
"""For every command that may load a model of others."""

# What help says about modules that take seconds to import: tests compare it with them.
HELD_OUT = 0.4
""":data:`lesff.train.splits.VALIDATION_FRACTION`."""
BACKWARD_PASSES = 16
""":data:`lesff.uncertainty.calibration.DIRECTIONS`."""
SUITE_NAMES = ("standard", "full")
""":data:`lesff.evaluation.suite.SUITES`."""
CHECK_NAMES = (
    "frames",
    "conformers",
    "s22",
    "water",
    "dipoles",
    "torsions",
    "long-range",
    "states",
    "reactions",
    "drift",
    "liquids",
    "solids",
    "more-solids",
    "phonons",
    "surfaces",
    "born",
    "robustness-pairs",
    "robustness-approaches",
    "robustness-compression",
    "robustness-dissociation",
    "robustness-size-consistency",
    "robustness-ions-in-water",
    "robustness-ion-contacts",
    "robustness-spin-order",
    "robustness-converged-sums",
    "robustness-clashes",
    "robustness-hot-runs",
    "robustness-proton-runs",
    "robustness-hunt",
)
"""Names of :data:`lesff.evaluation.suite.CHECKS`."""
