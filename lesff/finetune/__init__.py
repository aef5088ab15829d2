"""Finetuning: a base model and a few labelled frames in, a better model and a report out."""

from lesff.finetune.options import FinetuneOptions
from lesff.finetune.run import finetune

__all__ = ["FinetuneOptions", "finetune"]
