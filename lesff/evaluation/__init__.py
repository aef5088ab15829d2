"""The evaluation suite: checks of a model against experiment, quantum chemistry and limits."""
