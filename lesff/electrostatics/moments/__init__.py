"""Multipoles, induction, fields, and what follows from moving charges."""
