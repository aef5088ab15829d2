"""MACE: configuration, layers, model."""
