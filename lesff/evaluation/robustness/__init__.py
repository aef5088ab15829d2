"""Robustness: what a model does where no data were, with a pass mark for every figure."""
