"""Sums over point and Gaussian sources: crystals, slabs, molecules."""
