"""Recorded computations: the numbers of PyTorch, from new values in the same memory."""

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import tiny_aimnet2, tiny_potential, triclinic_ice, two_waters

import lesff
from lesff.atoms.graph import build_graph
from lesff.atoms.neighbors import find_neighbors, nearest_pairs
from lesff.atoms.structure import to_structure
from lesff.calculator import LesffCalculator
from lesff.convert.aimnet2 import convert_aimnet2
from lesff.convert.reader import read_checkpoint
from lesff.electrostatics.dispersion import DispersionConfig
from lesff.errors import StructureError, UnsupportedInputError
from lesff.kernels import kernel_status
from lesff.kernels.recording import NotRecordable, record
from lesff.potential.edit import with_dispersion
from lesff.potential.replay import RepeatedStep

pytestmark = pytest.mark.skipif(
    kernel_status().instruction_set is None, reason="recordings need the compiled library"
)
TOLERANCES = {torch.float32: 2e-6, torch.float64: 1e-14}
"""Some units in the last place of numbers about one: another order of sums, another exp."""


@pytest.fixture(scope="module")
def off_small():
    return lesff.load("off-small")


INDEX = torch.tensor([2, 0, 2, 4, 1])

FUNCTIONS = {
    "sums": lambda x: [x + 2.0, x - 0.5 * x, 3.0 - x, x + x[:, :1], -x],
    "products": lambda x: [x * x.T[:5, :5].T, x / (2.0 + x * x), x * 2, 1.0 / (x + 5.0)],
    "functions": lambda x: [x.sin(), x.cos(), x.exp(), x.tanh(), x.abs(), (x * x + 1).sqrt()],
    "activations": lambda x: [torch.nn.functional.silu(x), torch.nn.functional.softplus(9 * x)],
    "powers": lambda x: [x**2, x**3, x**5, x.clamp(min=0.1), x.clamp(max=0.1)],
    "masks": lambda x: [x * (x < 0.3), x * (x > x.T)],
    "types": lambda x: [x.double() * 2, x.float() + 1, (x < 0).to(x.dtype)],
    "matrices": lambda x: [x @ x, x.T @ x, x[:, :1] @ x[:1], x @ x[0], x @ torch.ones_like(x).T],
    "batches": lambda x: [x[:, None, :] @ x[None], torch.einsum("ij,jk->ik", x, x.T)],
    "total": lambda x: [x.sum(), x.sum(0), x.sum(1, keepdim=True), x.T[1:].sum(0)],
    "rows": lambda x: [
        x.index_select(0, INDEX), x[INDEX], torch.zeros_like(x).index_add(0, INDEX, x),
        torch.zeros_like(x).index_copy(0, torch.arange(5).flip(0), x.T),
        torch.zeros_like(x)[:, 0].index_add(0, INDEX, x[:, 1]),
    ],
    "pieces": lambda x: [torch.cat([x[1:3], x], 0), torch.stack([x[0], x[:, 0]], 1), x.T.clone()],
    "in place": lambda x: [torch.zeros_like(x).add_(x).mul_(x), torch.ones_like(x).add_(x.T)],
    "choices": lambda x: [
        x.where(x < 0.1, 2.0), torch.where((x <= 0.0) & (x >= -0.3), x * x, -x), x.clamp(-0.1, 0.2),
        x * (x <= x.T), x * (x.double() >= 0.1), x.abs().clamp(min=0.2).rsqrt(),
    ],
    "signs": lambda x: [x.sign() * x, x.abs() * x.T, x.round() + x, (3 * x).round() * x],
    "rarer functions": lambda x: [
        (x + 1.0) ** -1.5, (x * x + 0.1) ** 0.25, torch.erfc(x), torch.addcmul(x, x, x.T),
        torch.linalg.norm(x, dim=1), torch.linalg.norm(x + 1.0),
    ],
    "complex numbers": lambda x: [
        many.real.sum(0) * many.imag.sum(1) for many in of_complex(torch.complex(x, 0.5 * x.T))
    ],
    "parts of complex numbers": lambda x: [
        torch.complex(x, x.T).conj().imag * x, torch.complex(x, x.T).conj().imag.clone(),
        (torch.complex(x, x.T) * 1j).real, (x * 1j).imag * x,
        torch.view_as_real(torch.complex(x, x.T) * torch.tensor(1j, dtype=torch.complex64)).sum(2),
        torch.view_as_real(torch.complex(x, x.T) * torch.ones(5, dtype=torch.complex128)).sum(2),
    ],
    "many matrices": lambda x: [
        x.repeat(4, 1)[:, :, None] @ x.repeat(4, 1)[:, None, :],
        x.repeat(4, 1)[:, None, :] @ x.expand(20, 5, 5),
        torch.ones(3, 5, 5, dtype=x.dtype).baddbmm_(x.expand(3, 5, 5), x.T.expand(3, 5, 5)),
    ],
    "crosses": lambda x: [
        torch.linalg.cross(x[:, :3], x[:, 2:]), torch.linalg.cross(x[:1, :3], x.T[:1, 1:4]),
    ],
    "flips": lambda x: [x.flip(0), x.flip(0, 1), x[None, 1:].flip(1) * x[1:], x.T.flip(1)],
    "rare": lambda x: [torch.cumsum(x, 0), torch.logsumexp(x, 1)],
    "constants": lambda x: [torch.eye(5, dtype=x.dtype) @ x, INDEX.to(x.dtype) * x],
}  # fmt: skip


def of_complex(z):
    """Everything that is done with tables of waves."""
    return [
        z * z.T, z + z.flip(0), z - z.T, torch.cat([z, z[1:]], 0)[:5], z * z.real, 2.0 * z,
        z.conj() * z, z.conj() * z.T.conj(), z * z.T.conj(), z.conj().clone(),
        torch.zeros_like(z).index_copy(0, INDEX.unique(), z[:4]),
    ]  # fmt: skip


def flat(function, x):
    return {str(i): value for i, value in enumerate(function(x))}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_and_their_gradients(name, dtype):
    function, rng = FUNCTIONS[name], torch.Generator().manual_seed(0)
    x = torch.rand(5, 5, generator=rng, dtype=dtype) - 0.5

    def computed():
        leaf = x.detach().requires_grad_()
        found = flat(function, leaf)
        score = sum((value.double() * (1 + value.detach().double())).sum()
                    for value in found.values())  # fmt: skip
        (slope,) = torch.autograd.grad(score, [leaf])
        return {**{n: v.detach() for n, v in found.items()}, "slope": slope}

    recording = record(computed, [x])
    for _ in range(2):
        x.copy_(torch.rand(5, 5, generator=rng, dtype=dtype) - 0.5)
        got = recording.repeat()
        for key, value in computed().items():
            bound = TOLERANCES[dtype] * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(got[key], value, rtol=0, atol=bound)


def test_a_question_about_inputs_is_not_recorded():
    x = torch.ones(3)
    with pytest.raises(NotRecordable, match="must not ask for numbers"):
        record(lambda: {"y": x * float(x.sum())}, [x])


def test_settings_change_when_they_are_set_up():
    x, table = torch.rand(4), torch.arange(4.0)
    recording = record(lambda: {"y": x * (2.0 * table)}, [x], [table])
    assert recording.program.n_instructions == 1  # the doubled table is computed with set_up
    table.copy_(torch.tensor([3.0, 1.0, 0.0, 2.0]))
    recording.set_up()
    x.copy_(torch.rand(4))
    torch.testing.assert_close(recording.repeat()["y"], x * 2.0 * table)


def test_nearest_pairs_are_the_closest():
    atoms = triclinic_ice()
    cell, pbc = np.array(atoms.cell), np.array(atoms.pbc)
    found, held = nearest_pairs(atoms.positions, cell, pbc, 6.0, 100)
    every = find_neighbors(atoms.positions, cell, pbc, 6.0)
    lengths = np.sort(every.lengths)[::2]
    assert len(lengths) > 101
    np.testing.assert_allclose(np.sort(found.lengths)[::2], lengths[:100])
    assert held == pytest.approx(lengths[100])


@pytest.mark.parametrize("head", ["latent", "shifted", "edge", "fukui"])
@pytest.mark.parametrize("make", [two_waters, triclinic_ice])
def test_recorded_steps_are_the_model(make, head):
    potential = with_dispersion(tiny_potential(head=head), DispersionConfig())
    potential.requires_grad_(False)
    step, atoms, rng = RepeatedStep(potential, 0.6), make(), np.random.default_rng(1)
    for _ in range(16):
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        got = step(to_structure(atoms), ("energy", "forces"))
        graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
        for name, value in potential(graph.to(dtype=potential.dtype)).items():
            torch.testing.assert_close(got[name], value, rtol=0, atol=1e-10)
    planned = step._step
    assert planned is not None
    assert planned.is_recorded
    # edges were searched again, and the recording went on with them
    assert step.n_searches > 2
    assert step.n_plans < step.n_searches - 1


def test_recorded_steps_of_passes_with_charges_are_the_model(tmp_path):
    potential = convert_aimnet2(read_checkpoint(tiny_aimnet2(tmp_path)))
    potential.cast_parameters(torch.float64)
    potential.requires_grad_(False)
    step, rng = RepeatedStep(potential, 0.6), np.random.default_rng(1)
    atoms = molecule("CH3CH2OH")
    atoms += two_waters()
    for _ in range(16):
        atoms.positions += rng.normal(scale=0.04, size=atoms.positions.shape)
        structure = to_structure(atoms)
        got = step(structure, ("energy", "forces", "charges"))
        graph = build_graph(structure, potential.architecture.cutoff)
        for name, value in potential(graph, ("energy", "forces", "charges")).items():
            # pairs of Gaussian charges beyond the cutoff count to 3e-8
            torch.testing.assert_close(got[name], value, rtol=0, atol=3e-7)
    planned = step._step
    assert planned is not None
    assert planned.is_recorded
    assert step.n_searches > 2
    assert step.n_plans < step.n_searches - 1


def test_crystals_with_d3_are_not_planned(tmp_path):
    potential = convert_aimnet2(read_checkpoint(tiny_aimnet2(tmp_path)))
    atoms = triclinic_ice()
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    with pytest.raises(UnsupportedInputError, match="D3 is for molecules, got a crystal"):
        potential.plan(graph)
    atoms.calc = LesffCalculator(potential)
    for _ in range(3):
        atoms.positions += 0.01
        assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.evaluator._follower.n_plans == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_steps_follow_a_cell(dtype):
    potential = with_dispersion(tiny_potential(head="latent"), DispersionConfig())
    potential = potential.to(dtype).requires_grad_(False)
    step, atoms, rng = RepeatedStep(potential, 0.6), triclinic_ice(), np.random.default_rng(1)
    # float32 has seven digits; total energies are some 10 eV
    rtol, atol = (1e-4, 2e-5) if dtype == torch.float32 else (0.0, 1e-10)
    recorded = 0
    for _ in range(24):
        strain = np.eye(3) + rng.normal(scale=1e-3, size=(3, 3))
        # grows, so that a grid of wave vectors becomes too small
        atoms.set_cell(1.002 * atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        got = step(to_structure(atoms), ("energy", "forces", "stress"))
        graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
        expected = potential(graph.to(dtype=potential.dtype), ("energy", "forces", "stress"))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=rtol, atol=atol)
        assert step._step is not None
        recorded += step._step.is_recorded
    assert recorded > 10
    assert step.n_plans < 5


def test_changed_weights_are_seen():
    potential = tiny_potential(head="latent").requires_grad_(False)
    step, structure = RepeatedStep(potential, 0.6), to_structure(two_waters())
    first = [float(step(structure, ("energy",))["energy"]) for _ in range(6)][-1]
    next(potential.parameters()).mul_(1.1)
    graph = build_graph(structure, potential.architecture.cutoff).to(dtype=potential.dtype)
    expected = float(potential(graph, ("energy",))["energy"])
    assert abs(expected - first) > 1e-6
    for _ in range(6):
        assert float(step(structure, ("energy",))["energy"]) == pytest.approx(expected, abs=1e-10)


def test_small_trajectories_are_repeated_without_being_asked(off_small):
    atoms, twin = molecule("CH3CHO"), molecule("CH3CHO")
    atoms.calc, twin.calc = off_small.calculator(), off_small.calculator(replay=False)
    rng = np.random.default_rng(3)
    for _ in range(12):
        move = rng.normal(scale=0.02, size=atoms.positions.shape)
        for one in (atoms, twin):
            one.positions += move
        np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), rtol=0, atol=2e-5)
        assert atoms.get_potential_energy() == pytest.approx(twin.get_potential_energy(), abs=1e-5)
    follower = atoms.calc.evaluator._follower
    assert follower is not None
    assert follower._step is not None
    assert follower._step.is_recorded
    assert twin.calc.evaluator._follower is None


def test_constant_pressure_is_repeated(off_small):
    atoms, twin = triclinic_ice(), triclinic_ice()
    atoms.calc, twin.calc = off_small.calculator(), off_small.calculator(replay=False)
    rng = np.random.default_rng(3)
    for _ in range(10):
        move = rng.normal(scale=0.02, size=atoms.positions.shape)
        strain = np.eye(3) + rng.normal(scale=1e-4, size=(3, 3))
        for one in (atoms, twin):
            one.set_cell(one.cell.array @ strain, scale_atoms=True)
            one.positions += move
        np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), rtol=0, atol=2e-5)
        np.testing.assert_allclose(atoms.get_stress(), twin.get_stress(), rtol=0, atol=1e-6)
    follower = atoms.calc.evaluator._follower
    assert follower._step.is_recorded
    assert follower.n_plans == 1
    # nothing is left to PyTorch
    for recording in follower._step._recordings.values():
        assert recording.program.calls == recording.settings.calls == []


def test_beads_of_small_systems_are_repeated(off_small):
    together, alone = off_small.evaluator(), off_small.evaluator(replay=False)
    rng, start = np.random.default_rng(4), molecule("CH3CHO")
    x = [start.positions + rng.normal(scale=0.02, size=(7, 3)) for _ in range(3)]
    names = ["energy", "forces"]
    for _ in range(10):
        x = [positions + rng.normal(scale=0.01, size=(7, 3)) for positions in x]
        structures = [together.structure(start.numbers, positions) for positions in x]
        rows = together.evaluate_batch(structures, names)
        for row, expected in zip(rows, alone.evaluate_batch(structures, names), strict=True):
            np.testing.assert_allclose(row["forces"], expected["forces"], rtol=0, atol=2e-5)
            assert row["energy"] == pytest.approx(expected["energy"], abs=1e-5)
    followers = [together._follower, *(slot.follower for slot in together._slots[1:])]
    assert all(follower is not None and follower._step.is_recorded for follower in followers)
    # two atoms of the last bead come close: it is named
    x[2][1] = x[2][0] + 0.1
    with pytest.raises(StructureError, match="structure 2"):
        together.evaluate_batch([together.structure(start.numbers, p) for p in x], names)


def test_contacts_are_seen_between_searches(off_small):
    atoms = molecule("H2O")
    atoms.calc = off_small.calculator(skin=2.0, replay=True)
    for _ in range(6):
        atoms.positions += 1e-3
        atoms.get_forces()
    atoms.positions[1] = atoms.positions[0] + 0.4 * (atoms.positions[1] - atoms.positions[0])
    with pytest.raises(StructureError, match="of the sum of their covalent radii"):
        atoms.get_forces()


def test_the_tolerance_tells_a_recording_that_misses_something(monkeypatch):
    potential = tiny_potential(head="latent").requires_grad_(False)
    step, atoms = RepeatedStep(potential, 0.6), two_waters()
    for _ in range(4):
        step(to_structure(atoms), ("energy",))
    planned = step._step
    assert planned is not None
    assert planned.is_recorded
    # an instruction that does not run: the first comparison finds it, and nothing is repeated
    monkeypatch.setattr(planned._recordings[frozenset(["energy"])].program, "_parts", [])
    atoms.positions[0] += 0.1
    got = float(step(to_structure(atoms), ("energy",))["energy"])
    graph = build_graph(to_structure(atoms), potential.architecture.cutoff)
    expected = float(potential(graph.to(dtype=potential.dtype), ("energy",))["energy"])
    assert got == pytest.approx(expected, abs=1e-10)
    assert not planned.is_recorded


def test_float64_models_are_not_repeated_unasked():
    atoms = two_waters()
    atoms.calc = LesffCalculator(tiny_potential(head="latent"))
    for _ in range(5):
        atoms.positions += 0.01
        atoms.get_forces()
    follower = atoms.calc.evaluator._follower
    assert follower is None or follower.n_plans == 0
