"""Coulomb interaction of latent Gaussian charges and the observables that follow from charges."""
