"""Several threads share a model, and each hears its own warnings."""

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

import lesff
from lesff.notices import heard

N_THREADS = 3


def together(function: Callable[[int], Any]) -> list[Any]:
    """What a function of the number of a thread gives, all of them started at the same moment."""
    barrier = threading.Barrier(N_THREADS)

    def start(k: int) -> Any:
        torch.set_num_threads(1)
        barrier.wait()
        return function(k)

    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(start, range(N_THREADS)))


@pytest.mark.parametrize("name", ["off-small", "off-medium", "mat-small"])
def test_the_first_predictions_of_a_model_are_those_of_one_thread(name: str) -> None:
    """Tables of a model are made by its first prediction: nobody sees them half made."""
    start = bulk("MgO", "rocksalt", a=4.21, cubic=True) if name == "mat-small" else molecule("C6H6")
    frames = [start.copy() for _ in range(N_THREADS)]
    for k, frame in enumerate(frames):
        frame.rattle(0.05, seed=k)

    def forces(model: lesff.Model) -> Callable[[int], np.ndarray]:
        return lambda k: model.predict(frames[k], ["energy", "forces"]).forces

    alone = [forces(lesff.load(name))(k) for k in range(N_THREADS)]
    for _ in range(3):
        for found, expected in zip(together(forces(lesff.load(name))), alone, strict=True):
            assert (found == expected).all()


def test_every_thread_hears_its_own_warnings_and_nothing_stays_behind() -> None:
    before = warnings.showwarning, list(warnings.filters)
    gates = [threading.Event() for _ in range(N_THREADS)]

    def listen(k: int) -> list[str]:
        # the first to begin is the first to end: blocks overlap, they are not nested
        with heard() as found:
            warnings.warn(f"of thread {k}", UserWarning, stacklevel=1)
            if k == 0:
                gates[0].set()
            else:
                assert gates[k - 1].wait(10.0)
                warnings.warn(f"again of thread {k}", UserWarning, stacklevel=1)
        gates[k].set()
        return [str(w) for w in found]

    for k, texts in enumerate(together(listen)):
        assert texts == [f"of thread {k}"] + [f"again of thread {k}"] * (k > 0)
    assert (warnings.showwarning, list(warnings.filters)) == before
    with pytest.warns(UserWarning, match="shown again"):
        warnings.warn("shown again", UserWarning, stacklevel=1)


def test_a_thread_that_does_not_listen_is_shown_its_warnings() -> None:
    def both() -> list[Warning]:
        with heard() as found:
            thread = threading.Thread(target=lambda: warnings.warn("not mine", stacklevel=1))
            thread.start()
            thread.join()
            warnings.warn("mine", stacklevel=1)
        return found

    with pytest.warns(UserWarning, match="not mine") as shown:
        assert [str(w) for w in both()] == ["mine"]
    assert len(shown) == 1


def test_warnings_of_a_prediction_are_heard() -> None:
    model = lesff.load("off-small")
    with heard() as found:
        model.predict(molecule("H2O"), ["energy"], total_charge=2)
    assert found
    assert all(isinstance(w, lesff.errors.ExtrapolationWarning) for w in found)
