"""One structure's step again and again: no search, no tables, no waiting for the GPU.

What the host has to decide (index tables, groups, wave vectors) depends on atoms, edges and cell,
not on positions. :class:`RepeatedStep` decides it once for edges that reach further than the
cutoff, where they count nothing, and records the step: on a CUDA device as a CUDA graph, on CPUs
with the compiled library as instructions on fixed memory (:mod:`lesff.kernels.recording`). It is
then repeated with one call, until an atom has moved half of that reach. On CPUs a recording then
goes on with other edges: the same number of them, the closest; and with another cell of a crystal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesff import kernels
from lesff.atoms.contacts import ContactRule, least_lengths
from lesff.atoms.graph import AtomGraph, ExactGeometry, build_graph
from lesff.atoms.neighbors import Neighbors, find_neighbors, nearest_pairs
from lesff.atoms.structure import Structure
from lesff.atoms.verlet import ClosestPairs, moved_beyond
from lesff.electrostatics.sums.ewald import wave_limits
from lesff.electrostatics.sums.plan import SystemGroup
from lesff.kernels.recording import NotRecordable, Recording, record
from lesff.nn.edge_tables import Topology
from lesff.nn.radial_table import TABLE_START
from lesff.potential.potential import Potential

_EAGER_STEPS = 3
"""Steps before one is recorded: libraries allocate their workspaces, and a structure whose cell
changes all the time is never recorded."""
_SPARE_PAIRS = 1.05
"""Share of pairs beyond those within the reach that a plan has room for."""
_WIDER = (1.1, 1.3, 1.7)
"""Factors of the reach in which as many pairs are looked for as there is room for."""
_ALL = 2**62
"""Pairs: more than there are."""
_LEAST_SKIN = 0.5
"""Share of the skin that another set of edges must leave for the plan to go on with them."""
_MOST_SKIN = 1.5
"""The same of what is made use of."""
_GROWN = 1.002
"""Cell that is asked about, compared with the one that is there."""
_TOLERANCE = 1e-4
"""Largest difference between a recorded step and the step itself, relative to the largest value;
rounding is far below, a recording that misses something far above."""


class RepeatedStep:
    """Properties of one structure along a trajectory.

    Args:
        potential: The model; :attr:`Potential.can_plan` must hold.
        skin: How much further edges reach than the cutoff, in A.
        contacts: What is done about close contacts, whenever edges are searched.
        where: Name of the structure, for messages.

    Attributes:
        n_plans: How often everything was decided anew.
        n_searches: How often edges were searched.
    """

    def __init__(
        self,
        potential: Potential,
        skin: float,
        contacts: ContactRule | None = None,
        where: str = "structure",
    ) -> None:
        self.potential = potential
        self.contacts = contacts
        self._where = where
        self.skin = skin
        self.n_plans = 0
        self.n_searches = 0
        self._weights = [(weight, weight.is_inference()) for weight in potential.parameters()]
        self._structure: Structure | None = None
        self._key: tuple = ()
        self._step: _PlannedStep | None = None
        self._room = self._held = 0.0
        self._closest = ClosestPairs()
        # first and second atom, shift, square of the least length of each pair that may come close
        self._pairs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the plan, which belongs to this process and its device.

        The copy makes the same plan from the same structure when it needs one.
        """
        return {
            **self.__dict__, "n_plans": 0, "n_searches": 0, "_step": None, "_pairs": None,
            "_closest": ClosestPairs(),
        }  # fmt: skip

    def __call__(self, structure: Structure, properties: Collection[str]) -> Mapping[str, Tensor]:
        """Properties from :data:`lesff.potential.plan.PLANNED` as :meth:`Potential.forward` gives.

        Results stay valid until the next call.

        Raises:
            PropertyError, UnsupportedInputError: as :meth:`Potential.plan`.
        """
        planned, key = self._structure, self._model_key()
        if planned is None or key != self._key or not self._serves(planned, structure):
            planned, self._step = structure, None
        elif not self._is_near(planned, structure):
            planned = structure
            if self._step is not None and not self._goes_on(self._step, structure):
                self._step = None
        self._structure, self._key = planned, key
        if self._step is None:
            self._step = self._plan(planned)
        self._check_contacts(structure)
        return self._step(structure, frozenset(properties))

    def _check_contacts(self, structure: Structure) -> None:
        """Look at the pairs of the plan as they are now; all of them only if one is close."""
        if self.contacts is None or self._pairs is None:
            return
        first, second, shifts, least = self._pairs
        vectors = structure.positions[second] - structure.positions[first]
        if structure.pbc.any():
            vectors += shifts @ structure.cell
        if (np.einsum("ij,ij->i", vectors, vectors) < least).any():
            reach = self.potential.architecture.cutoff
            found = find_neighbors(structure.positions, structure.cell, structure.pbc, reach)
            self.contacts.check(structure, found, self._where)

    def _graph(self, structure: Structure, found: Neighbors, reach: float) -> AtomGraph:
        """The graph of a plan; pairs that may come close are kept for :meth:`_check_contacts`."""
        along = np.flatnonzero(np.arange(len(found.reverse_edge)) < found.reverse_edge)
        least = least_lengths(structure, *found.edge_index[:, along])
        # both atoms of a pair move by the room at most as long as the plan serves
        may = found.lengths[along] < least + 2.0 * self._room
        along, least = along[may], least[may]
        first, second = found.edge_index[:, along]
        # squares, as they are compared; an atom and its image stay as far apart as the cell says
        least = least**2 * (first != second)
        self._pairs = first, second, found.cell_shifts[along].astype(np.float64), least
        return build_graph(structure, reach, found, contacts=self.contacts, where=self._where)

    def _model_key(self) -> tuple:
        """What a recording takes for constant: weights, mode and threads."""
        versions = [0 if is_frozen else w._version for w, is_frozen in self._weights]
        addresses = [weight.data_ptr() for weight, _ in self._weights]
        return self.potential.radial, torch.get_num_threads(), addresses, versions

    def _serves(self, old: Structure, new: Structure) -> bool:
        """Whether the plan may serve apart from edges; recordings go on with other cells."""
        if not is_alike(old, new, in_cells=self._records()):
            return False
        return self._step is None or self._step.holds(new)

    def _is_near(self, old: Structure, new: Structure) -> bool:
        """Whether the edges searched for the old positions serve the new ones."""
        furthest, least = moved_beyond(old.positions, old.cell, new.positions, new.cell)
        # what the cell shortens counts as if both atoms had moved
        return furthest + 0.5 * max(0.0, 1.0 - least) * self._held < self._room

    def _plan(self, structure: Structure) -> _PlannedStep:
        cutoff = self.potential.architecture.cutoff
        reach = cutoff + self.skin
        found, held = self._search(structure, reach, _ALL)
        if self._records():
            # some more pairs than there are now
            n_pairs = len(found.reverse_edge) // 2
            found, held = self._search(structure, _WIDER[0] * reach, int(_SPARE_PAIRS * n_pairs))
        self.n_plans += 1
        # tables of radial functions are read if no pair comes below them
        room = self._room_of(held)
        near = 0.5 * (found.min_distance - TABLE_START)
        if near >= 0.5 * _LEAST_SKIN * self.skin:
            room = min(room, near)
        self._held = held
        self._room, closest = room, found.min_distance - 2.0 * room
        graph = self._graph(structure, found, held)
        return _PlannedStep(self.potential, graph, closest=closest, records=self._records())

    def _room_of(self, reach: float) -> float:
        """How far atoms may move while edges up to ``reach`` serve, in A."""
        return 0.5 * min(reach - self.potential.architecture.cutoff, _MOST_SKIN * self.skin)

    def _records(self) -> bool:
        """Whether steps are recorded on the CPU."""
        return kernels.is_active(self._weights[0][0])

    def _search(self, structure: Structure, reach: float, count: int) -> tuple[Neighbors, float]:
        self.n_searches += 1
        search = nearest_pairs if count == _ALL else self._closest.find
        return search(structure.positions, structure.cell, structure.pbc, reach, count)

    def _goes_on(self, step: _PlannedStep, structure: Structure) -> bool:
        """Search edges anew and give them to a recorded step; False if it cannot take them."""
        if not step.is_recorded:
            return False
        reach = self.potential.architecture.cutoff + self.skin
        for factor in _WIDER:
            found, held = self._search(structure, factor * reach, step.n_pairs)
            if len(found.reverse_edge) == 2 * step.n_pairs:
                break
        else:
            return False
        room = self._room_of(held)
        if step.stays_apart:
            room = min(room, 0.5 * (found.min_distance - TABLE_START))
        if room < 0.5 * _LEAST_SKIN * self.skin:
            return False
        self._room, self._held = room, held
        return step.take(self._graph(structure, found, held))


def is_alike(old: Structure, new: Structure, *, in_cells: bool = False) -> bool:
    """Whether only positions differ, or positions and the cell of crystals with ``in_cells``."""
    return (
        new.positions.shape == old.positions.shape
        and _equal(new.numbers, old.numbers)
        and _equal(new.pbc, old.pbc)
        and (_equal(new.cell, old.cell) or (in_cells and bool(new.pbc.all())))
        and new.total_charge == old.total_charge
        and new.spin_multiplicity == old.spin_multiplicity
        and new.external_field is None
    )


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first is second or bool((first == second).all())


class _PlannedStep:
    """A step whose positions live in one place; recorded.

    Args:
        potential: The model.
        graph: The structure with the plan's edges.
        closest: See :meth:`Potential.plan`.
        records: Whether it is recorded on the CPU; on CUDA devices it always is.
    """

    def __init__(
        self, potential: Potential, graph: AtomGraph, *, closest: float, records: bool
    ) -> None:
        self._cell = graph.cell[0].numpy().copy()
        # edges of cells, in A, up to which the grids are known to hold
        self._held_edges = np.zeros(3)
        graph = graph.to(dtype=potential.dtype, device=potential.device)
        self._potential = potential
        self._records = records
        self._plan = potential.plan(graph, closest=closest)
        # where positions were rounded, the step reads those in float64; cells of its own, too
        cell, exact = graph.cell.clone(), graph.exact
        if exact is None:
            self._positions = graph.positions.clone()
            self._graph = graph.replace(positions=self._positions, cell=cell)
            self._cells = [cell]
        else:
            self._positions = exact.positions.clone()
            exact = ExactGeometry(positions=self._positions, cell=exact.cell.clone())
            self._graph = graph.replace(exact=exact, cell=cell)
            self._cells = [cell, exact.cell]
        self._n_steps: Counter[frozenset[str]] = Counter()
        is_host = self._positions.device.type == "cpu"
        self._host = self._positions.numpy() if is_host else None
        self._graphs: dict[frozenset[str], tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}
        self._recordings: dict[frozenset[str], Recording] = {}
        # comparisons of each recording with the step itself, and what for
        self._checked: set[tuple[frozenset[str], frozenset[str]]] = set()
        self._changed: frozenset[str] = frozenset()

    @property
    def n_pairs(self) -> int:
        """Undirected pairs of the plan."""
        return self._plan.topology.n_pairs

    @property
    def stays_apart(self) -> bool:
        """Whether radial functions come from tables."""
        return self._plan.topology.stays_apart

    @property
    def is_recorded(self) -> bool:
        """Whether there is a recording on the CPU."""
        return bool(self._recordings)

    def holds(self, structure: Structure) -> bool:
        """Whether the grids of wave vectors hold those of its cell."""
        cell = structure.cell
        if not structure.pbc.any() or np.array_equal(cell, self._cell):
            return True
        edges = np.sqrt(np.einsum("ij,ij->i", cell, cell))
        if (edges <= self._held_edges).all():
            return True
        # a cell that grows is not asked about at every step
        for factor in (_GROWN, 1.0):
            if self._holds_cell(factor * cell):
                # limits grow with each edge alone
                self._held_edges = np.maximum(self._held_edges, factor * edges)
                return True
        return False

    def _holds_cell(self, cell: np.ndarray) -> bool:
        rows = torch.from_numpy(cell)[None]
        sums = (
            (self._plan.coulomb, self._potential.ewald),
            (self._plan.dispersion, self._potential.config.dispersion),
        )
        return all(
            group.grid is None or bool((wave_limits(rows, settings.dl) <= _limits(group)).all())
            for plan, settings in sums
            if plan is not None and settings is not None
            for group in plan.groups
        )

    def _go_to(self, structure: Structure) -> None:
        """Put positions, and a cell that has changed, where the step reads them."""
        if self._host is None:
            self._positions.copy_(torch.from_numpy(structure.positions))
        else:
            # the same memory: a copy by PyTorch takes longer to begin
            np.copyto(self._host, structure.positions, casting="same_kind")
        if structure.pbc.any() and not np.array_equal(structure.cell, self._cell):
            self._cell = structure.cell
            for place in self._cells:
                place.copy_(torch.from_numpy(structure.cell)[None])
            self._set_up("cell")

    def _set_up(self, changed: str) -> None:
        """Recordings go on with other settings."""
        for recording in self._recordings.values():
            recording.set_up()
        self._changed |= {changed}

    def __call__(self, structure: Structure, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        self._go_to(structure)
        recording = self._recordings.get(wanted)
        if recording is not None:
            return self._repeated(recording, wanted)
        self._n_steps[wanted] += 1
        if self._n_steps[wanted] <= _EAGER_STEPS:
            return self._run(wanted)
        if self._positions.is_cuda:
            if wanted not in self._graphs:
                self._graphs[wanted] = self._record(wanted)
            graph, results = self._graphs[wanted]
            graph.replay()
            return results
        return self._recorded(wanted) if self._records else self._run(wanted)

    def take(self, graph: AtomGraph) -> bool:
        """Go on with other edges; False where they are too many or too few."""
        graph = graph.to(dtype=self._potential.dtype, device=self._potential.device)
        old = self._plan.topology
        new = self._potential.architecture.topology(graph)
        same = new.n_pairs == old.n_pairs and torch.equal(new.node_order, old.node_order)
        if not same:
            return False
        new.prepare(fused=True)
        pairs = zip(_tables(self._graph, old), _tables(graph, new), strict=True)
        for place, value in pairs:
            place.copy_(value)
        self._set_up("edges")
        return True

    def _settings(self) -> list[Tensor]:
        """What a recording may go on with: edges, and the cell."""
        return [*_tables(self._graph, self._plan.topology), *self._cells]

    def _run(self, wanted: frozenset[str]) -> dict[str, Tensor]:
        return self._potential(self._graph, wanted, plan=self._plan)

    def _recorded(self, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Record the step; what cannot be recorded is computed as before from now on."""
        try:
            recording = record(lambda: self._run(wanted), [self._positions], self._settings())
        except NotRecordable:
            self._records = False
            return self._run(wanted)
        # what was recorded was computed, too
        expected = {name: value.clone() for name, value in recording.results.items()}
        results = recording.repeat()
        if not all(_agree(results[name], value) for name, value in expected.items()):
            self._records = False
            return expected
        self._recordings[wanted] = recording
        return results

    def _repeated(self, recording: Recording, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """A recorded step, compared with the step itself once, with other edges, another cell."""
        results, check = recording.repeat(), (wanted, self._changed)
        if not recording.holds:  # an ion came into being: recorded anew, with all that it asks for
            del self._recordings[wanted]
            self._n_steps[wanted] = 0
            return self._run(wanted)
        if check in self._checked:
            return results
        expected = self._run(wanted)
        if all(_agree(results[name], value) for name, value in expected.items()):
            self._checked.add(check)
            return results
        # nothing is recorded any more
        self._recordings.clear()
        self._records = False
        return expected

    def _record(self, wanted: frozenset[str]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # workspaces of this stream
            self._run(wanted)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._run(wanted)
        return graph, results


def _limits(group: SystemGroup) -> Tensor:
    """Limits of the grid of a group."""
    return torch.tensor(() if group.grid is None else group.grid.limits)


def _tables(graph: AtomGraph, topology: Topology) -> list[Tensor]:
    """All tensors that say which atoms are pairs."""
    edges = topology.edges
    return [
        *(graph.edge_index, graph.cell_shifts, graph.reverse_edge),
        *(topology.pair_sender, topology.pair_receiver, topology.pair_shift),
        *(edges.node_start, edges.sender, edges.pair, edges.sign),
        *(edges.pair_sender, edges.pair_receiver),
    ]


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding only; the same places may be not finite."""
    found, expected = found.double(), expected.double()
    scale = float(expected.abs().nan_to_num(posinf=0.0).max()) if expected.numel() else 0.0
    return torch.allclose(
        found, expected, rtol=_TOLERANCE, atol=_TOLERANCE * max(scale, 1e-3), equal_nan=True
    )
