"""The same model in programs that run dynamics; one module an engine, one contract.

Every module converts units and cells and asks a :class:`~lesff.potential.evaluator.Evaluator`;
``tests/test_engines.py`` holds them to the same energies, forces and virials. Nothing is imported
here: openmm-ml imports :mod:`lesff.engines.openmmml` whether a model is used or not.
"""
