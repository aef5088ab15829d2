"""Read checkpoints of other codes without running anything in them."""
