"""Charges that equilibrate: equations, their solution, electrodes."""
