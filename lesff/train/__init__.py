"""Training: data in, one loop, a model folder out. Finetuning uses the same loop."""
