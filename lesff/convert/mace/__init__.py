"""MACE checkpoints: what shape they have, which weights go where."""
