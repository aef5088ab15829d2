"""Older versions of models of lesff, a folder ``name/version`` for each, and nothing else."""
