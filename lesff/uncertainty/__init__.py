"""Uncertainties: how they are calibrated, and which frames to label next."""
