"""A model is a folder: configuration, weights, card, licence, golden values."""
