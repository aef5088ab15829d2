"""What clients may send, as pydantic models: they are the OpenAPI description, too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from lesff.quantities import DEFAULT_PROPERTIES, QUANTITIES

Vector = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
_LONG = 10_000_000
MAX_SMILES = 400
"""Characters of a SMILES; RDKit's embedding of more may take minutes."""


class StructureRequest(BaseModel):
    """One structure, or the frames of an xyz text, in exactly one of five ways.

    Text that a client sends is read as text, never as the path of a file.
    """

    model_config = ConfigDict(extra="forbid")

    smiles: str | None = Field(None, max_length=MAX_SMILES, description="SMILES; needs RDKit.")
    xyz: str | None = Field(None, max_length=_LONG, description="Text of an xyz or extxyz file.")
    cif: str | None = Field(None, max_length=_LONG, description="Text of a CIF file, one crystal.")
    symbols: list[Annotated[str, Field(max_length=3)]] | None = Field(
        None, description="Symbols of elements, with `positions`."
    )
    numbers: list[Annotated[int, Field(ge=1, le=118)]] | None = Field(
        None, description="Atomic numbers, with `positions`."
    )
    positions: list[Vector] | None = Field(None, description="(n_atoms, 3) in A.")
    cell: Annotated[list[Vector], Field(min_length=3, max_length=3)] | None = Field(
        None, description="Rows are lattice vectors, A; also in place of that of `xyz`."
    )
    pbc: Annotated[list[bool], Field(min_length=3, max_length=3)] | bool | None = Field(
        None, description="Periodic directions; all if a cell is given."
    )
    charge: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        None, description="Total charge, e; else that of the structure, else 0."
    )
    spin_multiplicity: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="2S+1; else that of the structure, else the lowest possible."
    )
    external_field: Vector | None = Field(None, description="Uniform field, V/A.")
    model: str | None = Field(
        None, max_length=200, description="One of the service's models; the first if not given."
    )
    format: Literal["json", "extxyz"] = Field("json", description="Of the answer.")

    @model_validator(mode="after")
    def _one_source(self) -> StructureRequest:
        given = [
            name
            for name in ("smiles", "xyz", "cif", "symbols", "numbers")
            if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                "exactly one of smiles, xyz, cif, symbols, numbers must be given, got "
                + (", ".join(given) or "none")
            )
        has_lists = given[0] in ("symbols", "numbers")
        if has_lists != (self.positions is not None):
            raise ValueError("`positions` must be given with `symbols` or `numbers`, and only then")
        if has_lists and len(self.positions or ()) != len(getattr(self, given[0])):
            raise ValueError(
                f"`positions` must have one row for each of `{given[0]}`, got "
                f"{len(self.positions or ())} for {len(getattr(self, given[0]))}"
            )
        return self


class PredictRequest(StructureRequest):
    """A prediction."""

    properties: list[Annotated[str, Field(max_length=40)]] = Field(
        list(DEFAULT_PROPERTIES),
        min_length=1,
        max_length=len(QUANTITIES),
        description="Names: " + ", ".join(QUANTITIES) + ".",
    )


class RelaxRequest(StructureRequest):
    """A local minimum; the cell stays."""

    fmax: float = Field(0.02, ge=1e-3, le=10.0, description="Largest force at the end, eV/A.")
    steps: int = Field(200, ge=1, le=1000, description="Most steps.")


class VibrationsRequest(StructureRequest):
    """Harmonic modes and infrared intensities at the structure, relaxed first unless told."""

    relax: bool = Field(True, description="Relax first; else at the structure as it is.")
    fmax: float = Field(0.005, ge=1e-3, le=10.0, description="As for a relaxation.")
    steps: int = Field(300, ge=1, le=1000, description="As for a relaxation.")
