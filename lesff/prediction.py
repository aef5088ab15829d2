"""What a model predicted: arrays by name, with units, for one structure or a list."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from lesff.errors import MissingDependencyError, PropertyError
from lesff.quantities import QUANTITIES
from lesff.units import find_unit

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = 12
"""Numbers of a result that a notebook shows; of larger ones their shape."""


class Values(list[Any]):
    """Results of a list of structures: a list with one entry each.

    It is an array as well where the shapes of all entries agree: ``values.array``, or any function
    of numpy, such as ``np.mean(values, axis=0)``.
    """

    @property
    def array(self) -> np.ndarray:
        """All entries stacked, (n_structures, ...).

        Raises:
            PropertyError: if their shapes differ.
        """
        shapes = {np.shape(value) for value in self}
        if len(shapes) > 1:
            some = ", ".join(map(str, sorted(shapes)[:3]))
            raise PropertyError(
                f"results of structures of different sizes are no one array: their shapes are "
                f"{some}{', ...' if len(shapes) > 3 else ''}; take them one by one"
            )
        return np.stack([np.asarray(value) for value in self]) if self else np.zeros(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of :attr:`array`."""
        return self.array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The stacked entries, for functions of numpy."""
        del copy  # stacking is one
        return self.array if dtype is None else self.array.astype(dtype)


class Prediction(Mapping[str, np.ndarray]):
    """Results for one structure or for a list of them.

    Attribute and item access by name give numpy arrays for one structure (scalars as float), and
    lists of them for a list of structures, which numpy takes for one array where shapes agree (see
    :class:`Values`); a number or a slice gives the prediction of one structure or of some;
    ``repr`` shows the units. Shapes and units, as in
    :data:`lesff.quantities.QUANTITIES`: energy, energy_sr, energy_lr () eV; node_energy
    (n_atoms,) eV; forces (n_atoms, 3) eV/A; stress (3, 3) eV/A^3; hessian (n_atoms, 3, n_atoms, 3)
    eV/A^2; latent_charges, charges (n_atoms,) e; dipole (3,) e A; quadrupole (3, 3) e A^2;
    born_effective_charges (n_atoms, 3, 3) e; polarizability (3, 3) e A^2/V; atomic_dipoles
    (n_atoms, 3) e A, atomic_quadrupoles (n_atoms, 3, 3) e A^2; energy_uncertainty () eV;
    forces_uncertainty (n_atoms,) eV/A; novelty (n_atoms,), without unit.

    Args:
        values: Results by property, one entry per structure.
        is_single: Whether a single structure was given.
        model: Resolved name of the model.
        reasons: Why each structure is out of the domain, see :attr:`out_of_domain`; None if the
            model is not calibrated.
        units: Units by property, where they are not those of the table.
        structures: What was predicted, one entry each, as it was computed; None if not known.
        charge_width: Sigma of the model's Gaussian charges in A, whose potential at a distance r is
            ``q erf(r / sigma) / r``; None without charges or if not known.
    """

    def __init__(
        self,
        values: dict[str, list[Any]],
        *,
        is_single: bool,
        model: str,
        reasons: Sequence[tuple[str, ...]] | None = None,
        units: Mapping[str, str] | None = None,
        structures: Sequence[Any] | None = None,
        charge_width: float | None = None,
    ) -> None:
        self._values = {name: Values(column) for name, column in values.items()}
        self._units = dict(units or {})
        self._is_single = is_single
        self.model = model
        self.charge_width = charge_width
        self._reasons = None if reasons is None else list(reasons)
        self._structures = None if structures is None else list(structures)

    @property
    def structures(self) -> list[Any] | None:
        """The structures, a list also of one, as they were computed; None if not known."""
        return None if self._structures is None else list(self._structures)

    @property
    def out_of_domain(self) -> Any:
        """Why a structure is unlike what the model's uncertainty was calibrated on.

        One tuple of reasons (element, charge, spin, pbc or geometry never seen) for one structure,
        empty if there is none; a list of them for a list of structures.

        Raises:
            PropertyError: for a model without calibration.
        """
        if self._reasons is None:
            raise PropertyError(
                "`out_of_domain` needs predictions of a calibrated model: make one with `lesff "
                "calibrate NAME --train FILE --validation FILE -o DIR` and load DIR"
            )
        return self._reasons[0] if self._is_single else self._reasons

    @overload
    def __getitem__(self, name: str) -> Any: ...

    @overload
    def __getitem__(self, name: SupportsIndex | slice) -> Prediction: ...

    def __getitem__(self, name: str | SupportsIndex | slice) -> Any:
        """Results of a property by its name; the prediction of one structure by its number."""
        if isinstance(name, str):
            if name not in self._values:
                raise KeyError(self._absent(name))
            return self._values[name][0] if self._is_single else self._values[name]
        if isinstance(name, slice):
            return self._part(range(self.n_structures)[name], is_single=False)
        try:
            place = range(self.n_structures)[name]
        except IndexError:
            raise IndexError(
                f"structure {name} was not predicted; there are {self.n_structures}"
            ) from None
        except TypeError as error:
            raise KeyError(
                f"a prediction is indexed by names of properties or numbers of structures, got "
                f"{name!r}"
            ) from error
        return self._part([place], is_single=True)

    def _part(self, places: Sequence[int], *, is_single: bool) -> Prediction:
        """The prediction of some of the structures."""
        return Prediction(
            {name: [column[i] for i in places] for name, column in self._values.items()},
            is_single=is_single,
            model=self.model,
            reasons=None if self._reasons is None else [self._reasons[i] for i in places],
            units=self._units,
            structures=None if self._structures is None else [self._structures[i] for i in places],
            charge_width=self.charge_width,
        )

    def __getattr__(self, name: str) -> Any:
        """Results of a property."""
        # private names are never results: copying asks for some before there are any values
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name not in self._values:
            raise AttributeError(self._absent(name))
        return self[name]

    def _absent(self, name: str) -> str:
        if name in QUANTITIES:
            return f"{name!r} was not asked for; use predict(..., properties=[{name!r}])"
        return f"no result {name!r}; this prediction has {', '.join(self._values)}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def n_structures(self) -> int:
        """Number of structures predicted."""
        return len(next(iter(self._values.values())))

    @property
    def units(self) -> dict[str, str]:
        """Unit of each property, as text."""
        return {name: self._units.get(name, QUANTITIES[name].unit) for name in self._values}

    def to(self, *units: str, **by_name: str) -> Prediction:
        """The same in other units.

        >>> from lesff.prediction import Prediction
        >>> water = Prediction({"dipole": [np.array([0.0, 0.0, 0.386])]}, is_single=True, model="")
        >>> float(water.to("debye").dipole[2].round(3))
        1.854

        Args:
            *units: Names of units, see :data:`lesff.units.UNITS`; each converts all results of its
                kind.
            **by_name: Unit of a property, by its name: ``to(energy="kcal/mol")``.

        Raises:
            PropertyError: for an unknown unit, one of another kind than a property, or one that no
                result can be given in.
        """
        chosen: dict[str, tuple[str, float]] = {}
        for text in units:
            label, unit = find_unit(text)
            names = [n for n in self._values if QUANTITIES[n].unit == unit.base]
            if not names:
                raise PropertyError(
                    f"no result can be given in {text}, a unit for {unit.base}: "
                    + ", ".join(f"{n} is in {QUANTITIES[n].unit}" for n in self._values)
                )
            chosen |= {name: (label, unit.factor) for name in names}
        for name, text in by_name.items():
            if name not in self._values:
                raise PropertyError(self._absent(name))
            label, unit = find_unit(text)
            if unit.base != QUANTITIES[name].unit:
                raise PropertyError(
                    f"{name} is in {QUANTITIES[name].unit}; it cannot be given in {text}, a unit "
                    f"for {unit.base}"
                )
            chosen[name] = (label, unit.factor)
        values: dict[str, list[Any]] = dict(self._values)
        for name, (_, factor) in chosen.items():
            # from the unit of the table, whatever it was given in
            scale = factor / self._factor(name)
            values[name] = [value * scale for value in values[name]]
        labels = self._units | {name: label for name, (label, _) in chosen.items()}
        return Prediction(
            values,
            is_single=self._is_single,
            model=self.model,
            reasons=self._reasons,
            units=labels,
            structures=self._structures,
            charge_width=self.charge_width,
        )

    def _factor(self, name: str) -> float:
        """How many of its present unit make one of the table's."""
        return find_unit(self._units[name])[1].factor if name in self._units else 1.0

    def arrays(self) -> dict[str, Any]:
        """Results of all structures by property: one array where shapes agree, else a list."""
        found: dict[str, Any] = {}
        for name, column in self._values.items():
            agree = len({np.shape(value) for value in column}) <= 1
            found[name] = column.array if agree else list(column)
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """A table with one row a structure; ``frame.attrs["units"]`` has the units.

        Raises:
            MissingDependencyError: if pandas is not installed.
        """
        try:
            import pandas as pd  # optional
        except ImportError as error:
            raise MissingDependencyError(
                'pandas is not installed; install it with `pip install "lesff[batch]"`'
            ) from error
        columns: dict[str, Any] = {}
        for name, column in self._values.items():
            if np.ndim(column[0]) == 0:
                columns[name] = column.array
                continue
            # arrays are the cells of their column
            cells = np.empty(len(column), dtype=object)
            for place, value in enumerate(column):
                cells[place] = value
            columns[name] = cells
        if self._reasons is not None:
            columns["out_of_domain"] = ["; ".join(reason) for reason in self._reasons]
        frame = pd.DataFrame(columns)
        frame.attrs |= {"units": self.units, "model": self.model}
        return frame

    def per_structure(self) -> list[dict[str, Any]]:
        """One dictionary of results per structure."""
        names = list(self._values)
        columns = zip(*self._values.values(), strict=True)
        return [dict(zip(names, row, strict=True)) for row in columns]

    def _repr_html_(self) -> str:
        """What notebooks show: a row a quantity."""
        count = "1 structure" if self._is_single else f"{self.n_structures} structures"
        rows = []
        for name, column in self._values.items():
            value = _shape_text(name)
            if self._is_single and np.size(column[0]) <= _SHOWN:
                value = np.array2string(np.asarray(column[0]), precision=4, suppress_small=True)
            rows.append((name, value, self.units[name]))
        for reason in (self._reasons or [()])[0] if self._is_single else ():
            rows.append(("out of domain", reason, ""))
        cells = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        return (
            f"<p>Prediction of {html.escape(self.model)} for {count}</p>"
            f"<table><tr><th>quantity</th><th>value or shape</th><th>unit</th></tr>{cells}</table>"
        )

    def __repr__(self) -> str:
        count = "1 structure" if self._is_single else f"{self.n_structures} structures"
        lines = [f"Prediction of {self.model} for {count}"]
        for name, column in self._values.items():
            first = column[0]
            unit = self.units[name]
            if self._is_single and np.ndim(first) == 0:
                lines.append(f"  {name} = {first:.6f} {unit}")
            elif self._is_single and np.size(first) <= 3:
                lines.append(f"  {name} = {np.array2string(first, precision=4)} {unit}")
            else:
                lines.append(f"  {name}: {_shape_text(name)} {unit}")
        if self._is_single and self._reasons:
            lines += [f"  out of domain: {reason}" for reason in self._reasons[0]]
        return "\n".join(lines)


def _shape_text(name: str) -> str:
    row = QUANTITIES[name]
    lead = ("n_atoms",) if row.level == "atom" else ()
    parts = [*lead, *map(str, row.shape)]
    if row.level == "pair":
        parts = [part for extent in map(str, row.shape) for part in ("n_atoms", extent)]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
