"""Finetuning: a base model and a few labelled frames in, a better model and a report out."""

from lesff.finetune.options import FinetuneOptions, options_from
from lesff.finetune.run import finetune
from lesff.finetune.start import Base

__all__ = ["Base", "FinetuneOptions", "finetune", "options_from"]
