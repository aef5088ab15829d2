"""openmm-ml: ``MLPotential("lesff-off-medium")``, ``MLPotential("lesff", model="./my-model")``.

::

    potential = MLPotential("lesff-off-medium")
    system = potential.createSystem(topology, charge=-1)
    mixed = potential.createMixedSystem(topology, mm, range(12), embedding="electrostatic")

Registered by the entry points of the package. Importing openmm-ml imports this module: it loads
neither PyTorch nor a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

from lesff.errors import ConfigError

if TYPE_CHECKING:
    import openmm
    from openmm import app

    from lesff.model import Model

PREFIX = "lesff"
ELECTROSTATIC = "electrostatic"
_OF_EMBEDDINGS = ("linkAtomDistances", "mlLongRange")
"""Arguments of openmm-ml that it hands on to potentials, too."""


class PotentialFactory(MLPotentialImplFactory):
    """What openmm-ml makes a potential with."""

    def createImpl(self, name: str, **args: Any) -> Potential:  # noqa: N802 - theirs
        """A potential.

        Args:
            name: ``"lesff-NAME"`` for a model of this name, or ``"lesff"`` with ``model``.
            **args: See :class:`Potential`.

        Raises:
            ConfigError: if it is not said which model.
        """
        model = args.pop("model", None)
        if name != PREFIX and model is not None:
            raise ConfigError(f'`model` must be left out for MLPotential("{name}"), got {model!r}')
        if name != PREFIX:
            model = name.removeprefix(f"{PREFIX}-")
        if model is None:
            raise ConfigError(
                '`model` must be given: MLPotential("lesff", model="off-medium") or '
                'MLPotential("lesff-off-medium")'
            )
        return Potential(model, **args)


class Potential(MLPotentialImpl):
    """A model for openmm-ml.

    Args:
        model: A model, its name or folder.
        periodic: ``False``: the atoms of the model are a molecule in open space, whatever the box;
            mechanical embedding then takes its interaction with its images from the force field.
        **load_options: Of :func:`lesff.load`, such as ``dtype`` and ``device``; the device is a GPU
            if there is one.
    """

    def __init__(self, model: Any, *, periodic: bool | None = None, **load_options: Any) -> None:
        self._given = model
        self._periodic = periodic
        self._load_options = load_options
        self._models: dict[str, Model] = {}

    def addForces(  # noqa: N802 - theirs
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803 - theirs
        **args: Any,
    ) -> None:
        """Add the model to a system; see :class:`openmmml.mlpotential.MLPotentialImpl`.

        Args:
            topology: Elements and box.
            system: The system.
            atoms: Those of the model, or None for all.
            forceGroup: Group of the force.
            **args: ``charge`` in e, ``multiplicity``, and options of
                :class:`lesff.potential.evaluator.Evaluator`.
        """
        from lesff.engines.openmm import add_force  # PyTorch, which takes seconds

        model, options = self._model_and_options(args)
        add_force(
            system, model, topology, atoms=atoms, periodic=self._boundaries(topology),
            force_group=forceGroup, **options,
        )  # fmt: skip

    def createMixedSystem(  # noqa: N802 - theirs
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: list[int],
        forceGroup: int,  # noqa: N803 - theirs
        interpolate: bool,  # noqa: FBT001 - theirs
        embedding: str,
        returnInfo: bool = False,  # noqa: FBT001, FBT002, N803 - theirs
        **args: Any,
    ) -> openmm.System:
        """Electrostatic embedding; see :func:`lesff.engines.openmm_embedding.embedded_system`."""
        from lesff.engines.openmm_embedding import embedded_system  # PyTorch, as above

        if self._periodic is not None:
            raise ConfigError(
                f"`periodic` must be left out for electrostatic embedding, got {self._periodic}: "
                "the model has the boundaries of the force field"
            )
        model, options = self._model_and_options(args)
        return embedded_system(
            topology, system, atoms, model, force_group=forceGroup, interpolate=interpolate,
            **options,
        )  # fmt: skip

    def getSupportedEmbeddings(self) -> list[str]:  # noqa: N802 - theirs
        """``"electrostatic"``; ``"mechanical"`` is openmm-ml's own."""
        return [ELECTROSTATIC]

    def getMLLongRange(self) -> bool:  # noqa: N802 - theirs
        """Whether the model's atoms interact with their images: with charges, and in a box."""
        if self._periodic is False:
            return False
        return self._model(None).potential.traits.has_charges

    def _model_and_options(self, args: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        """The model on its device, and options of the evaluator."""
        options = {name: value for name, value in args.items() if name not in _OF_EMBEDDINGS}
        model = self._model(options.pop("device", None))
        for theirs, ours in (("charge", "total_charge"), ("multiplicity", "spin_multiplicity")):
            if theirs in options:
                options[ours] = options.pop(theirs)
        return model, options

    def _model(self, device: Any) -> Model:
        import torch  # as above

        from lesff.model import load

        if not isinstance(self._given, str) and hasattr(self._given, "potential"):
            return self._given
        options = dict(self._load_options)
        chosen = device or options.pop("device", None)
        chosen = str(chosen or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen not in self._models:
            options.pop("device", None)
            self._models[chosen] = load(self._given, device=chosen, **options)
        return self._models[chosen]

    def _boundaries(self, topology: app.Topology) -> bool:
        has_box = topology.getPeriodicBoxVectors() is not None
        if self._periodic and not has_box:
            raise ConfigError("`periodic` must be False or left out for a topology without box")
        return has_box if self._periodic is None else self._periodic
