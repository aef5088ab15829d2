"""A mirror of models for other machines: its store, copying, serving."""
