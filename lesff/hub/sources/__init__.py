"""Where bytes come from: the package, hubs, addresses, the authors of a model."""
