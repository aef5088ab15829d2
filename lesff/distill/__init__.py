"""Distillation: a teacher labels sampled structures, a compact student learns them."""

from lesff.distill.options import DistillOptions
from lesff.distill.run import distill, label

__all__ = ["DistillOptions", "distill", "label"]
