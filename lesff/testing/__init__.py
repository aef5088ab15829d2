"""A contract for architectures and charge heads, also for those written outside lesff.

``check_architecture`` and ``check_charge_head`` put a part into a small potential with random
weights in float64 and check what a :class:`lesff.potential.potential.Potential` relies on: shapes
and types, symmetries, batches, sizes, the cutoff, derivatives, saved weights, and for heads the
total charge, the receptive field and the response to fields. The first promise that does not hold
raises :class:`lesff.errors.ContractError`, which names it and the size of the violation::

    from lesff.testing import check_architecture, check_charge_head

    def test_my_architecture():
        check_architecture(MyConfig, MyArchitecture, {"cutoff": 4.0})

    def test_my_head():
        check_charge_head(MyHead)

The structures are those of :func:`lesff.potential.verify.check_structures`: eight rattled atoms of
the given elements as a molecule, a slab, a triclinic and a left-handed crystal.
"""

from lesff.errors import ContractError
from lesff.testing.architectures import check_architecture
from lesff.testing.contract import PROMISES, Finding
from lesff.testing.heads import check_charge_head

__all__ = ["PROMISES", "ContractError", "Finding", "check_architecture", "check_charge_head"]
