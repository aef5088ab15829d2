"""Ions and complexes that no model is trained on, whatever a file is made of."""

from __future__ import annotations

from functools import cache

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

HELD_OUT = {
    "[Cl-].O": 8, "[O-]C=O.O": 6, "C[OH2+]": 3, "C=[OH+]": 3, "CC#[NH+]": 3, "C[OH+]C": 3,
    "CC(C)=[OH+]": 2, "[Cl-].OC=O": 3, "C[NH3+].C=O": 3, "[O-]C(=O)C=O": 2,
}  # fmt: skip
"""Systems of the evaluation suite and others that no model is trained on."""


@cache
def held_out_formulas() -> frozenset[str]:
    """Their formulas with the charge, as RDKit writes them: wherever a proton sits."""
    return frozenset(CalcMolFormula(Chem.MolFromSmiles(smiles)) for smiles in HELD_OUT)


def is_held_out_formula(smiles: str) -> bool:
    """Whether a molecule, or several with dots between, has the atoms and charge of one of them."""
    return CalcMolFormula(Chem.MolFromSmiles(smiles)) in held_out_formulas()
