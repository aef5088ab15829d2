"""Atoms become numbers: structures, their checks, neighbours and graphs."""
