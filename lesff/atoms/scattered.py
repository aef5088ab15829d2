"""Neighbours of structures that no regular grid of bins suits, and bounds on what is searched.

Atoms far apart, thin and skewed cells, cells much smaller than the cutoff: pairs are found by a
k-d tree over the atoms and those images that are within the cutoff of the cell, after three steps
that change no pair and no vector between neighbours.

1. The lattice vectors are replaced by the shortest ones of the same lattice (Minkowski reduction).
2. Atoms are wrapped into the cell along periodic directions.
3. Along open directions empty layers wider than the cutoff are narrowed to a little more than it:
   what they separate are no neighbours before and after, and all else moves as one piece.

Memory grows with atoms and images near the cell, not with the volume.
"""

from __future__ import annotations

import numpy as np

from lesff.errors import StructureError

MAX_COORDINATE = 1e13
"""A: float64 holds positions to 0.002 A there."""
MAX_DEGREE = 4000
"""Mean number of neighbours of an atom within 9.8 A or less."""
MAX_DENSITY = 1.0
"""Atoms per A^3 beyond which more are refused for larger cutoffs; diamond has 0.18."""
_MOST_DEGREE = 40_000
"""More are refused whatever the cutoff."""
FEW_ATOMS = 1000
"""Up to so many atoms all pairs of an open structure are few enough to be looked at."""
_MIN_SINE = 1e-9
"""Volume of a cell over that of a box with its edges: less has lost all digits."""
_MAX_IMAGES = 2_000_000
"""Images near the cell that are looked at, or 40 for each atom if that is more."""
_GAP = 1.25
"""What wide empty layers are narrowed to, in cutoffs."""


def most_neighbours(cutoff: float) -> int:
    """Largest mean number of neighbours of an atom within a cutoff in A."""
    most = int(MAX_DENSITY * 4.0 / 3.0 * np.pi * cutoff**3)
    return min(max(MAX_DEGREE, most), _MOST_DEGREE)


def check_geometry(positions: np.ndarray, box: np.ndarray, pbc: np.ndarray) -> None:
    """Refuse what float64 cannot hold.

    Args:
        positions: (n_atoms, 3) in A.
        box: (3, 3) in A, rows of open axes replaced by unit vectors, or zero without periodicity.
        pbc: (3,) bool.

    Raises:
        StructureError: naming the atom or the lattice vectors.
    """
    largest = np.abs(positions).max(initial=0.0)
    if not largest <= MAX_COORDINATE:  # also for nan
        bad = int(np.flatnonzero(~(np.abs(positions) <= MAX_COORDINATE).all(axis=1))[0])
        raise StructureError(
            f"positions must be within {MAX_COORDINATE:g} A of the origin, where float64 holds "
            f"them, atom {bad} is at {positions[bad].tolist()}"
        )
    if not pbc.any():
        return
    rows = box[pbc]
    lengths = np.abs(rows).max(axis=1)
    if not np.all((lengths > 0.0) & (lengths <= MAX_COORDINATE)):  # also for nan
        raise StructureError(
            f"lattice vectors must be finite, not zero and at most {MAX_COORDINATE:g} A long, "
            f"got {rows.tolist()}"
        )
    unit = rows / np.linalg.norm(rows, axis=1)[:, None]
    if not np.linalg.det(unit @ unit.T) > _MIN_SINE**2:
        raise StructureError(
            f"the lattice vectors of periodic directions must span a volume, got {rows.tolist()}"
        )


def check_density(
    positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, extent: np.ndarray, cutoff: float
) -> None:
    """Refuse more neighbours than atoms can have, before memory is taken for them.

    Args:
        positions: (n_atoms, 3) in A.
        box: As for :func:`check_geometry`.
        pbc: (3,) bool.
        extent: (3,) of the atoms in A along the rows of the box; read for open axes.
        cutoff: In A.

    Raises:
        StructureError: naming an atom and the number.
    """
    n_atoms = len(positions)
    if pbc.any():
        # atoms in the volume of the cell times their extent along open axes, at least the cutoff
        volume = abs(np.linalg.det(box)) * np.maximum(extent[~pbc], cutoff).prod()
        degree = n_atoms / volume * 4.0 / 3.0 * np.pi * cutoff**3
        most = most_neighbours(cutoff)
        if degree > most:
            raise StructureError(
                f"{n_atoms} atoms in a cell of {box[pbc].tolist()} have about {degree:.3g} "
                f"neighbours each within {cutoff:g} A, more than {most}: the cell is too "
                "small; check its unit (A)"
            )
    if n_atoms <= FEW_ATOMS:
        return
    # atoms per cube of the cutoff's length; a number that hardly two cubes share stands for each
    cube = np.floor(positions / cutoff).astype(np.int64)
    key = cube @ np.array([73_856_093, 19_349_663_000_003, 83_492_791_000_000_007])
    _, place, count = np.unique(key, return_inverse=True, return_counts=True)
    # a sphere has 4.19 times the volume of the cube
    degree = 4.19 * float(np.square(count.astype(float)).sum()) / n_atoms
    if degree > most_neighbours(cutoff):
        crowded = int(np.flatnonzero(place == count.argmax())[0])
        raise StructureError(
            f"{int(count.max())} atoms are within {cutoff:g} A of atom {crowded}, too many to be "
            "atoms of one structure; check the unit of positions (A)"
        )


def scattered_pairs(
    positions: np.ndarray, box: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair closer than the cutoff once.

    Args:
        positions: (n_atoms, 3) in A.
        box: (3, 3) in A, rows of open axes unit vectors normal to the others, zero if all are open.
        pbc: (3,) bool.
        cutoff: In A.

    Returns:
        First and second atom, (n_pairs,), shifts (n_pairs, 3) such that ``r[second] - r[first] +
        shift @ box`` is the vector between them, and its length in A, (n_pairs,).

    Raises:
        StructureError: for more images or neighbours than atoms can have.
    """
    from scipy.spatial import KDTree  # start-up: 0.3 s of CPU, for odd structures only

    n_atoms = len(positions)
    if not pbc.any():
        box = np.eye(3)
    rows, change = _shortest_rows(box, pbc)
    fractional = np.linalg.solve(rows.T, positions.T).T
    # atoms into the cell along periodic directions, wide gaps out along the others
    home = np.where(pbc, np.floor(fractional), 0.0)
    fractional = fractional - home
    for axis in np.flatnonzero(~pbc):
        fractional[:, axis] = _narrowed(fractional[:, axis], cutoff)
    owner, shift = _images(fractional, rows, pbc, cutoff)
    points = (fractional[owner] + shift) @ rows
    atoms = points[:n_atoms]
    # count before anything is stored
    everything = KDTree(points)
    degree = everything.query_ball_point(atoms, cutoff, return_length=True)
    if degree.sum() > most_neighbours(cutoff) * max(n_atoms, FEW_ATOMS):
        crowded = int(degree.argmax())
        raise StructureError(
            f"atom {crowded} has {int(degree[crowded])} neighbours within {cutoff:g} A, too many "
            "to be atoms of one structure; check the units of positions and cell (A)"
        )
    found = KDTree(atoms).sparse_distance_matrix(everything, cutoff, output_type="ndarray")
    first, image, distance = found["i"], found["j"], found["v"]
    # r_second - r_first + (shift - home_second + home_first) @ rows, back to the given vectors
    second = owner[image]
    total = (shift[image] - home[second] + home[first]).astype(np.int64) @ change
    # once: the lower atom first, and of an atom and its images one half
    leading = total[np.arange(len(total)), (total != 0).argmax(axis=1)]
    is_image = (first == second) & (shift[image] != 0).any(axis=1)
    chosen = (distance < cutoff) & ((first < second) | (is_image & (leading > 0)))
    return (
        first[chosen].astype(np.int64),
        second[chosen].astype(np.int64),
        total[chosen],
        distance[chosen],
    )


def _shortest_rows(box: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Short vectors of the same lattice, and the integers that make them from the given ones."""
    from ase.geometry import minkowski_reduce  # start-up: for odd structures only

    if pbc.sum() < 2:
        return box, np.eye(3, dtype=np.int64)
    try:
        _, change = minkowski_reduce(box, pbc)  # pyright: ignore[reportArgumentType]
    except RuntimeError as error:
        raise StructureError(
            f"the lattice vectors {box[pbc].tolist()} cannot be reduced to short ones: {error}"
        ) from error
    return change @ box, change.astype(np.int64)


def _narrowed(values: np.ndarray, cutoff: float) -> np.ndarray:
    """Coordinates along an axis from the lowest, with wide empty layers narrowed."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order], prepend=values[order[0]])
    place = np.empty_like(values)
    excess = np.where(steps > _GAP * cutoff, steps - _GAP * cutoff, 0.0)
    # pieces move as one: what an atom is from the first of its piece is a difference of the given
    starts = np.flatnonzero((excess > 0.0) | (np.arange(len(values)) == 0))
    piece = np.cumsum(excess > 0.0)
    inside = values[order] - values[order[starts]][piece]
    width = np.append(inside[starts[1:] - 1], 0.0) + _GAP * cutoff
    base = np.concatenate([[0.0], np.cumsum(width[:-1])])
    place[order] = base[piece] + inside
    return place


def _images(
    fractional: np.ndarray, rows: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and their images within the cutoff of the cell: owners, and shifts (n, 3).

    The atoms themselves come first.
    """
    inverse = np.linalg.inv(rows)
    margin = np.where(pbc, cutoff * np.linalg.norm(inverse, axis=0), 0.0)
    n_atoms = len(fractional)
    expected = n_atoms * np.prod(1.0 + 2.0 * margin)
    if not expected <= max(_MAX_IMAGES, 40 * n_atoms):
        lengths = np.linalg.norm(rows[pbc], axis=1)
        raise StructureError(
            f"the cell has lattice vectors of {np.sort(lengths).tolist()} A, so that atom 0 has "
            f"about {expected / n_atoms:.3g} images within {cutoff:g} A of the cell; check its "
            "unit (A)"
        )
    owner = np.arange(n_atoms)
    shift = np.zeros((n_atoms, 3))
    for axis in np.flatnonzero(pbc):
        reach = int(np.ceil(margin[axis]))
        owners, shifts = [owner], [shift]
        for step in range(-reach, reach + 1):
            at = fractional[owner, axis] + step
            near = (at >= -margin[axis]) & (at <= 1.0 + margin[axis])
            if step == 0:
                continue
            moved = shift[near]
            moved[:, axis] = step
            owners.append(owner[near])
            shifts.append(moved)
        owner, shift = np.concatenate(owners), np.concatenate(shifts)
    return owner, shift
