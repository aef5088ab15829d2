"""Spectra, transport and dielectric properties from trajectories."""
