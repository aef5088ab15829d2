"""NequIP: configuration, layers, model."""
