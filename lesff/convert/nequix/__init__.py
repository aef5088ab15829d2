"""Nequix files (``.nqx``): reader and conversion."""
