"""One structure's step again and again: no search, no tables, no waiting for the GPU.

What the host has to decide (index tables, groups, wave vectors) depends on atoms, edges and cell,
not on positions. :class:`RepeatedStep` decides it once for edges that reach further than the
cutoff, where they count nothing, and on a CUDA device records the step as a CUDA graph, which is
then replayed with one call. It serves until an atom has moved half of that reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesff.atoms.contacts import ContactRule
from lesff.atoms.graph import AtomGraph, ExactGeometry, build_graph
from lesff.atoms.neighbors import find_neighbors
from lesff.atoms.structure import Structure
from lesff.potential.potential import Potential

_EAGER_STEPS = 3
"""Steps before one is recorded: libraries allocate their workspaces, and a structure whose cell
changes all the time is never recorded."""


class RepeatedStep:
    """Properties of one structure along a trajectory.

    Args:
        potential: The model; :attr:`Potential.can_plan` must hold.
        skin: How much further edges reach than the cutoff, in A.
        contacts: What is done about close contacts, whenever edges are searched.

    Attributes:
        n_plans: How often everything was decided anew.
    """

    def __init__(
        self, potential: Potential, skin: float, contacts: ContactRule | None = None
    ) -> None:
        self.potential = potential
        self.contacts = contacts
        self.skin = skin
        self.n_plans = 0
        self._structure: Structure | None = None
        self._step: _PlannedStep | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State without the plan, which belongs to this process and its device.

        The copy makes the same plan from the same structure when it needs one.
        """
        return {**self.__dict__, "n_plans": 0, "_step": None}

    def __call__(self, structure: Structure, properties: Collection[str]) -> dict[str, Tensor]:
        """Properties from :data:`lesff.potential.plan.PLANNED` as :meth:`Potential.forward` gives.

        Results stay valid until the next call.

        Raises:
            PropertyError, UnsupportedInputError: as :meth:`Potential.plan`.
        """
        planned = self._structure
        if planned is None or not self._holds(planned, structure):
            planned = self._structure = structure
            self._step = None
        if self._step is None:
            self._step = self._plan(planned)
        return self._step(structure.positions, frozenset(properties))

    def _holds(self, old: Structure, new: Structure) -> bool:
        """Whether a plan made for the old structure serves the new one."""
        if new.positions.shape != old.positions.shape:
            return False
        same = (
            np.array_equal(new.numbers, old.numbers)
            and np.array_equal(new.pbc, old.pbc)
            and np.array_equal(new.cell, old.cell)
            and new.total_charge == old.total_charge
            and new.spin_multiplicity == old.spin_multiplicity
            and new.external_field is None
        )
        moved = new.positions - old.positions
        return same and bool(np.square(moved).sum(1).max() < (0.5 * self.skin) ** 2)

    def _plan(self, structure: Structure) -> _PlannedStep:
        reach = self.potential.architecture.cutoff + self.skin
        found = find_neighbors(structure.positions, structure.cell, structure.pbc, reach)
        graph = build_graph(structure, reach, found, contacts=self.contacts)
        self.n_plans += 1
        return _PlannedStep(self.potential, graph)


class _PlannedStep:
    """A step whose positions live in one place; recorded on CUDA devices."""

    def __init__(self, potential: Potential, graph: AtomGraph) -> None:
        graph = graph.to(dtype=potential.dtype, device=potential.device)
        self._potential = potential
        self._plan = potential.plan(graph)
        # where positions were rounded, the step reads those in float64
        if graph.exact is None:
            self._positions = graph.positions.clone()
            self._graph = graph.replace(positions=self._positions)
        else:
            self._positions = graph.exact.positions.clone()
            exact = ExactGeometry(positions=self._positions, cell=graph.exact.cell)
            self._graph = graph.replace(exact=exact)
        self._n_steps: Counter[frozenset[str]] = Counter()
        self._recordings: dict[frozenset[str], tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]] = {}

    def __call__(self, positions: np.ndarray, wanted: frozenset[str]) -> dict[str, Tensor]:
        self._positions.copy_(torch.from_numpy(positions))
        self._n_steps[wanted] += 1
        if not self._positions.is_cuda or self._n_steps[wanted] <= _EAGER_STEPS:
            return self._run(wanted)
        if wanted not in self._recordings:
            self._recordings[wanted] = self._record(wanted)
        recording, results = self._recordings[wanted]
        recording.replay()
        return results

    def _run(self, wanted: frozenset[str]) -> dict[str, Tensor]:
        return self._potential(self._graph, wanted, plan=self._plan)

    def _record(self, wanted: frozenset[str]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # workspaces of this stream
            self._run(wanted)
        torch.cuda.current_stream().wait_stream(stream)
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording):
            results = self._run(wanted)
        return recording, results
