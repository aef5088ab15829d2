"""From SMILES to a structure: RDKit's ETKDG and MMFF, the charge from the SMILES.

ETKDGv3: S. Wang et al., J. Chem. Inf. Model. 60, 2044 (2020), 10.1021/acs.jcim.0c00025. MMFF94s:
T. A. Halgren, J. Comput. Chem. 20, 720 (1999).
"""

from __future__ import annotations

import re
from typing import Any

import ase

from lesff.atoms.structure import to_structure
from lesff.errors import MissingDependencyError, StructureError

SEED = 61453
"""Of the embedding: the same SMILES has the same coordinates in every run of one RDKit."""
_MAX_ITERATIONS = 2000
_MAX_LENGTH = 2000
"""Characters of a SMILES; RDKit's embedding of more takes hours."""
_TOKENS = re.compile(r"(?:\[[^\[\]\s]+\]|Br|Cl|[BCNOPSFIbcnops]|[-=#$:/\\.()~]|[0-9]|%[0-9]{2})+")
INFO_SMILES = "smiles"
"""Key of ``atoms.info`` that holds the SMILES that a structure was made of."""


def looks_like_smiles(text: str) -> bool:
    """Whether a text consists of symbols of SMILES; it may still be none."""
    return _TOKENS.fullmatch(text) is not None


def rdkit_version() -> str:
    """Version of RDKit, on which coordinates depend.

    Raises:
        MissingDependencyError: if RDKit is not installed.
    """
    return str(_rdkit()[0].rdBase.rdkitVersion)


def atoms_of_smiles(smiles: str) -> ase.Atoms:
    """A conformer of a SMILES, in A, relaxed with MMFF94s where it has parameters.

    ``info`` has the charge and spin multiplicity that the SMILES says, and the SMILES.

    Args:
        smiles: The SMILES; parts that a dot divides are separate molecules.

    Raises:
        StructureError: if it is no SMILES, or no conformer is found.
        MissingDependencyError: if RDKit is not installed.
    """
    rdkit, chem, all_chem = _rdkit()
    if len(smiles) > _MAX_LENGTH:
        raise StructureError(
            f"SMILES must have at most {_MAX_LENGTH} characters, got {len(smiles)}"
        )
    with rdkit.rdBase.BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
        if molecule is None or molecule.GetNumAtoms() == 0:
            raise StructureError(f"{smiles!r} is no SMILES: {_why(chem, smiles)}")
        if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
            raise StructureError(f"SMILES {smiles!r} has an atom of no element (*)")
        molecule = chem.AddHs(molecule)
        _embed(molecule, smiles, all_chem)
        if all_chem.MMFFHasAllMoleculeParams(molecule):
            all_chem.MMFFOptimizeMolecule(molecule, mmffVariant="MMFF94s", maxIters=_MAX_ITERATIONS)
    state = to_structure(molecule, where=f"SMILES {smiles!r}")
    return ase.Atoms(
        state.numbers,
        state.positions,
        info={
            "charge": state.total_charge,
            "spin_multiplicity": state.spin_multiplicity,
            INFO_SMILES: smiles,
        },
    )


def _embed(molecule: Any, smiles: str, all_chem: Any) -> None:
    """Give a molecule coordinates: from distances first, from random places if that fails."""
    options = all_chem.ETKDGv3()
    options.randomSeed = SEED
    for random_places in (False, True):
        options.useRandomCoords = random_places
        if all_chem.EmbedMolecule(molecule, options) == 0:
            return
    raise StructureError(
        f"SMILES {smiles!r}: ETKDG finds no conformer; give a structure with coordinates"
    )


def _why(chem: Any, smiles: str) -> str:
    """What RDKit has against a SMILES, in words."""
    molecule = chem.MolFromSmiles(smiles, sanitize=False)
    if molecule is None:
        return "it cannot be parsed"
    if molecule.GetNumAtoms() == 0:
        return "it is empty"
    problems = chem.DetectChemistryProblems(molecule)
    return problems[0].Message() if problems else "its chemistry is impossible"


def _rdkit() -> tuple[Any, Any, Any]:
    """RDKit, Chem and AllChem."""
    try:
        import rdkit  # optional, for SMILES only
        from rdkit import Chem, rdBase  # noqa: F401
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise MissingDependencyError(
            'SMILES need RDKit; install it with `pip install "lesff[smiles]"`'
        ) from error
    return rdkit, Chem, AllChem
