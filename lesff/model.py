"""``load`` and ``Model``: a name becomes a model, atoms become numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, cast

import numpy as np
import torch
from ase.data import chemical_symbols

from lesff.atoms.structure import to_structures
from lesff.autograd import plain_arithmetic
from lesff.bulk.compute import Settings
from lesff.bulk.models import ModelReference, reference_to
from lesff.bulk.models import for_workers as worker_reference
from lesff.bulk.run import CHUNK
from lesff.bulk.stream import map_structures
from lesff.calculator import LesffCalculator
from lesff.errors import DeviceError, PropertyError
from lesff.hub.resolve import ResolvedModel, resolve
from lesff.model_folder.card import read_evaluation
from lesff.model_folder.folder import load_model, save_model
from lesff.model_folder.layout import CARD_FILE, LICENSE_FILE
from lesff.plain_data import from_dict
from lesff.potential.batches import predict_structures, property_names
from lesff.potential.config import DTYPES, ModelConfig
from lesff.potential.domain import OutOfDomain
from lesff.potential.edit import Redesign
from lesff.potential.evaluator import Evaluator
from lesff.potential.potential import Potential, RadialMode
from lesff.potential.properties import available_properties, check_available
from lesff.potential.response import BornOptions
from lesff.prediction import Prediction
from lesff.quantities import DEFAULT_PROPERTIES
from lesff.reports.tables import table

if TYPE_CHECKING:
    from lesff.hub.manifest.entries import ModelEntry
    from lesff.train.data import Frame, Source
    from lesff.train.frame_stream import Frames
    from lesff.uncertainty.agreement import Calibration


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: Literal["float32", "float64"] | torch.dtype | None = None,
    radial: RadialMode | None = None,
    offline: bool | None = None,
    accept_license: bool = False,
    licenses: Literal["any", "permissive"] | None = None,
    lock: str | Path | None = None,
) -> Model:
    """Load a model by name.

    Args:
        name: ``"off-small"``, ``"off-small@0.1.0"``, ``"hf:org/repo@rev"``,
            ``"https://host/path/#sha256=..."`` or a model folder.
        device: Where to compute.
        dtype: Floating-point type to compute in, as text or a torch dtype; the model's own if not
            given.
        radial: ``"table"``: radial functions are interpolated where that is faster (on CPUs with
            compiled kernels; error below 1e-6 eV/A); ``"exact"``: they are evaluated. If not given,
            tables in float32, exact in float64.
        offline: Never use the network; taken from ``LESFF_OFFLINE`` or ``HF_HUB_OFFLINE`` if not
            given.
        accept_license: Accept the licence of a model that is not free for any use; needed once
            per model and user, and recorded in the cache.
        licenses: ``"permissive"`` refuses models that are not free for any use; taken from
            ``LESFF_LICENSES`` if not given.
        lock: Lockfile (``lesff hub lock``) that says what the name stands for; taken from
            ``LESFF_LOCK`` if not given.

    Raises:
        LicenseError: if the licence must be accepted first, or is refused; the message shows it.
        ModelNotFoundError: if no model has this name; near names are suggested.
        IntegrityError: if the model's files are damaged and cannot be fetched again.
        OfflineError: if a download is needed but not allowed.
        DeviceError: if the device does not exist here.
        ConfigError: for a bad ``radial``.
    """
    resolved = resolve(
        name,
        offline=offline,
        accept_license=accept_license,
        licenses=licenses,
        lock=None if lock is None else Path(lock),
    )
    torch_dtype = _dtype(dtype)
    _check_device(device)
    # weights and tables outlive the modes that the caller is in
    with plain_arithmetic(device):
        potential = load_model(resolved.folder, dtype=torch_dtype, device=device, radial=radial)
    return Model(potential, resolved)


def _dtype(dtype: object) -> torch.dtype | None:
    """Type to compute in; PropertyError for others than float32 and float64."""
    if dtype is None or any(dtype is known for known in DTYPES.values()):
        return cast("torch.dtype | None", dtype)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise PropertyError(
            f"`dtype` must be 'float32' or 'float64', got {dtype!r}; torch.float32 and "
            "torch.float64 will do, too"
        )
    return DTYPES[dtype]


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(
            f"`device` must be one that PyTorch can use here, such as 'cpu', got {str(device)!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error


class Model:
    """A loaded model: predicts, gives an ASE calculator, saves.

    Args:
        potential: The model itself.
        source: Where it came from.
    """

    def __init__(self, potential: Potential, source: ResolvedModel) -> None:
        self.potential = potential
        self.source = source

    @property
    def name(self) -> str:
        """Resolved name, ``name@version`` for models of the manifest."""
        version = self.source.version
        return self.source.name if version is None else f"{self.source.name}@{version}"

    @property
    def config(self) -> ModelConfig:
        """Configuration."""
        return self.potential.config

    @property
    def card(self) -> str:
        """The model card as Markdown text."""
        return (self.source.folder / CARD_FILE).read_text(encoding="utf-8")

    @property
    def evaluation(self) -> str | None:
        """The second part of the card, all tables; None for a card of one part."""
        return read_evaluation(self.source.folder)

    @property
    def license_text(self) -> str:
        """The licence of the weights in full."""
        return (self.source.folder / LICENSE_FILE).read_text(encoding="utf-8")

    def __repr__(self) -> str:
        config = self.config
        return (
            f"Model({self.name}, elements {list(config.elements)}, "
            f"charge {config.total_charge[0]:+d}..{config.total_charge[1]:+d}, "
            f"{config.level_of_theory})"
        )

    def _repr_html_(self) -> str:
        """What notebooks show."""
        config = self.config
        low, high = config.total_charge
        rows = [
            ["model", self.name],
            ["elements", " ".join(chemical_symbols[z] for z in config.elements)],
            ["total charge", f"{low:+d} to {high:+d} e"],
            ["multiplicity", "{} to {}".format(*config.spin_multiplicity)],
            ["level of theory", config.level_of_theory],
            ["energies relative to", config.energy_reference],
            ["gives", ", ".join(available_properties(self.potential.traits))],
        ]
        return table(["", ""], rows)

    def predict(
        self,
        structures: Any,
        properties: Sequence[str] | str = DEFAULT_PROPERTIES,
        *,
        total_charge: int | Sequence[int] | None = None,
        spin_multiplicity: int | Sequence[int] | None = None,
        external_field: Sequence[float] | np.ndarray | None = None,
        born: BornOptions | None = None,
        batch_size: SupportsIndex | Literal["auto"] = "auto",
        strict: bool = False,
        allow_close: bool = False,
        progress: bool | None = None,
    ) -> Prediction:
        """Predict properties of one or many structures.

        Args:
            structures: ASE Atoms, a pymatgen structure, a list of them, or the path of a file.
            properties: Names, or text with commas between them, from the table in
                :mod:`lesff.quantities`: energy (eV), forces (eV/A), stress (eV/A^3), charges (e),
                dipole (e A), born_effective_charges (e), ...; ``"uncertainty"`` stands for all
                uncertainties of a calibrated model.
            total_charge: Total charge in e, one for all or one per structure; else from
                ``atoms.info``, else 0.
            spin_multiplicity: 2S+1 likewise; else the lowest that the electrons allow.
            external_field: Uniform electric field in V/A, (3,) for all or (n_structures, 3); else
                from ``atoms.info``, else none. See :mod:`lesff.electrostatics.moments.field`.
            born: Options of Born effective charges: published stencil, acoustic sum rule.
            batch_size: Structures per batch, a positive integer, or ``"auto"`` for batches of about
                equal cost.
            strict: Raise instead of warn for a charge or spin outside the trained range, for a
                quantity that the manifest says is not to be trusted, and for structures outside of
                what a calibrated model was calibrated on (else one warning for all of them).
            allow_close: Compute also where atoms are closer than 0.45 of the sum of their covalent
                radii, which is refused as a mistake (a warning below 0.7).
            progress: Show a progress bar; by default for long work only.

        Raises:
            StructureError: for input that is not a usable structure.
            UnsupportedInputError: for elements (always) or charge and spin (``strict``) that the
                model does not cover; for a field without a defined effect.
            OutOfDomainError: with ``strict``, for a structure unlike those of the calibration.
            PropertyError: for an unknown property or one the model cannot give here.
        """
        names = property_names(properties)
        checked, is_single = to_structures(
            structures,
            total_charge=total_charge,
            spin_multiplicity=spin_multiplicity,
            external_field=external_field,
        )
        return predict_structures(
            self.potential,
            checked,
            names,
            is_single=is_single,
            model=self.name,
            caveats=self.source.caveats,
            born=born,
            batch_size=batch_size,
            strict=strict,
            allow_close=allow_close,
            progress=progress,
        )

    def map(
        self,
        structures: Any,
        properties: Sequence[str] | str = DEFAULT_PROPERTIES,
        *,
        executor: str | Executor | None = None,
        chunk: int = CHUNK,
        on_error: Literal["skip", "stop"] = "stop",
        **options: Any,
    ) -> Iterator[Prediction | None]:
        """Predictions of any number of structures, one by one and in order, as they are made.

        Results do not depend on the executor: each computes the same batches.

        Args:
            structures: An iterable of what :meth:`predict` takes, or of files, globs, folders and
                SMILES, or one of these; taken as it is needed.
            properties: As for :meth:`predict`.
            executor: ``"processes:8"``, ``"threads:2"``, ``"dask:ADDRESS"``, ``"parsl:CONFIG.py"``
                or an object with the interface of ``concurrent.futures``; in this process if None.
            chunk: Structures that are computed together.
            on_error: ``"stop"`` raises for a structure that cannot be computed, ``"skip"`` yields
                None for it.
            **options: ``total_charge``, ``spin_multiplicity``, ``external_field`` (one for all),
                ``born``, ``strict`` and ``allow_close``, as for :meth:`predict`.

        Raises:
            StructureError: for the first structure that cannot be computed, with ``"stop"``.
            PropertyError: for properties that the model does not have.
            ConfigError: for a bad option.
            ExecutorError: if workers are lost and cannot be replaced.
        """
        settings = from_dict(Settings, options | {"properties": ()}, "options")
        settings = replace(settings, properties=tuple(property_names(properties)))
        self.check_available(settings.properties)
        return map_structures(
            structures,
            lambda for_workers: self.reference(for_workers=for_workers),
            settings,
            executor=executor,
            chunk=chunk,
            on_error=on_error,
            charge_width=self.config.charge_width,
        )

    def check_available(self, properties: Sequence[str]) -> None:
        """Raise PropertyError for properties that the model has for no structure."""
        check_available(properties, self.potential.traits)

    def reference(self, *, for_workers: bool = False) -> ModelReference:
        """What a worker needs to have the same model; see :mod:`lesff.bulk`.

        Args:
            for_workers: For other processes: a model that was changed after it was loaded travels
                with it.
        """
        found = reference_to(self.potential, self.source, self.name)
        return worker_reference(found, self.source) if for_workers else found

    def calculator(
        self,
        *,
        total_charge: int | None = None,
        spin_multiplicity: int | None = None,
        external_field: Sequence[float] | np.ndarray | None = None,
        strict: bool = False,
        allow_close: bool = False,
        skin: float = 0.5,
        replay: bool | None = None,
        on_out_of_domain: OutOfDomain = "warn",
    ) -> LesffCalculator:
        """An ASE calculator; see :class:`lesff.calculator.LesffCalculator` for the options."""
        return LesffCalculator(
            self.potential,
            total_charge=total_charge,
            spin_multiplicity=spin_multiplicity,
            external_field=external_field,
            strict=strict,
            allow_close=allow_close,
            skin=skin,
            replay=replay,
            on_out_of_domain=on_out_of_domain,
            caveats=self.source.caveats,
            model_name=self.name,
        )

    def evaluator(self, **options: Any) -> Evaluator:
        """Arrays in, arrays out, for engines; see :class:`lesff.potential.evaluator.Evaluator`.

        Args:
            **options: Those of the evaluator, but for ``caveats``.
        """
        return Evaluator(self.potential, caveats=self.source.caveats, **options)

    def redesigned(self, **changes: Any) -> Model:
        """The model with other parts, see :class:`lesff.potential.edit.Redesign` for the changes.

        ``local_state=True`` moves an older model to the local state of charge and spin without
        changing energies of neutral closed shells; a wall or a fresh head have to be trained.

        Raises:
            ConfigError: for a change that the model does not allow, or that does not exist.
        """
        design = from_dict(Redesign, changes, "redesign")
        return Model(design.of(self.potential), replace(self.source, version=None))

    def finetune(
        self,
        data: Source,
        output: str | Path,
        *,
        validation: Source | None = None,
        test: Source | None = None,
        probe: Source | None = None,
        command: str | None = None,
        progress: bool = True,
        say: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Model:
        """Train further on labelled frames; returns the better of the result and this model.

        Args:
            data: A file or database that ASE reads, an npz shard, or a list of Atoms.
            output: Folder of the run: report, resume point and the model folder ``model``.
            validation: Frames to validate on; drawn from ``data`` if not given.
            test: Frames to report on only.
            probe: Labelled frames of what must not be forgotten, for the report.
            command: Command line to write into the report.
            progress: Whether to show progress bars.
            say: Called with every line of the summary; nothing is printed if not given.
            **options: Fields of :class:`lesff.finetune.options.FinetuneOptions`; nested ones as
                dictionaries.

        Raises:
            DataError: if the data cannot be used.
            ConfigError: for a bad option.
            IntegrityError: if the folder belongs to a run with other data or options.
        """
        from lesff.finetune import Base, finetune, options_from  # start-up: 0.1 s of CPU

        base = Base(
            potential=self.potential,
            name=self.name,
            short_name=self.source.name,
            card=self.card,
            license_text=self.license_text,
        )
        folder = finetune(
            base,
            data,
            output,
            options_from(options),
            validation=validation,
            test=test,
            probe=probe,
            command=command,
            progress=progress,
            say=say,
        )
        return self._reloaded(folder, Path(output).name)

    def calibrate(
        self,
        train: Frames,
        validation: Sequence[Frame],
        output: str | Path,
        *,
        directions: int | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> tuple[Model, Calibration]:
        """Give the model uncertainties and write it with them as a folder.

        Args:
            train: Frames like those that it was trained on, in memory or a stream of files
                (:class:`lesff.train.frame_stream.FrameStream`); labels are not used.
            validation: Frames with energies and forces that it was not trained on.
            output: Model folder to write.
            directions: Backward passes of a force uncertainty, see
                :func:`lesff.uncertainty.calibration.calibrate`; its default if None.
            overwrite: Replace a model folder that is there.
            progress: Whether to show progress bars.

        Returns:
            The calibrated model, and how its uncertainties agree with the validation errors.

        Raises:
            DataError: for frames that cannot set a scale.
            ConfigError: if the folder exists.
        """
        # start-up: 0.1 s of CPU
        from lesff.uncertainty.calibration import DIRECTIONS, calibrate_folder

        result = calibrate_folder(
            self.source.folder,
            train,
            validation,
            output=Path(output),
            directions=DIRECTIONS if directions is None else directions,
            device=self.potential.device,
            overwrite=overwrite,
            progress=progress,
        )
        return self._reloaded(Path(output), Path(output).name), result

    def _reloaded(self, folder: Path, name: str) -> Model:
        """The model that now stands in a folder, in this model's type and place."""
        potential = load_model(folder, dtype=self.potential.dtype, device=self.potential.device)
        return Model(
            potential,
            replace(self.source, folder=folder, name=name, version=None, origin="folder"),
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a folder that :func:`lesff.load` reads; returns the folder."""
        save_model(
            self.potential,
            Path(folder),
            card=self.card,
            license_text=self.license_text,
            evaluation=self.evaluation,
            overwrite=overwrite,
        )
        return Path(folder)

    def push_to_hub(
        self,
        repo: str,
        *,
        version: str,
        card: str | None = None,
        private: bool = False,
        token: str | None = None,
    ) -> ModelEntry:
        """Save, check and upload the model; see :func:`lesff.hub.publish.publish_folder`.

        Args:
            repo: ``"organisation/name"``; made if need be.
            version: ``"major.minor.patch"``, new for this repository.
            card: Model card as Markdown; the one the model came with if None.
            private: Make a new repository private.
            token: Access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.

        Returns:
            Entry for a manifest, pinned to the commit.

        Raises:
            PublishError: without licence or card, if the version exists or the hub refuses.
        """
        from lesff.hub.publish import publish_folder  # start-up: 0.1 s of CPU

        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "model"
            save_model(
                self.potential,
                folder,
                card=self.card if card is None else card,
                license_text=self.license_text,
            )
            return publish_folder(folder, repo, version=version, private=private, token=token)
