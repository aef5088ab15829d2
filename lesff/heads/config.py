"""Configuration of the long-range part of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lesff.atoms.elements import metals_of
from lesff.electrostatics.sums.settings import Cutoff, EwaldSettings
from lesff.errors import ConfigError
from lesff.nn.readout import ReadoutConfig
from lesff.units import EWALD_PREFACTOR

HeadName = Literal["latent", "shifted", "qeq", "qeq-local", "edge", "fukui", "carried"]
HEAD_NAMES: tuple[HeadName, ...] = get_args(HeadName)


MAX_UNITS = 4096
"""Hidden units of a readout, and heads that it may have been trained with."""

MIN_DL = 0.05
"""A; the sum over wave vectors takes memory as its inverse cube."""

MAX_LIMIT = 20.0
"""e."""

_LIMITS = {1: 1.0, **dict.fromkeys((6, 7, 8, 9, 17, 35), 1.4), **dict.fromkeys((5, 15, 16), 1.6)}
_OTHER_LIMIT = 2.5


def charge_limits_of(elements: tuple[int, ...]) -> tuple[float, ...]:
    """Limits of latent charges in e for models of ours.

    Charges stay as they are up to 0.8 of the limit; those of off-medium 1.2.0 reach 0.7 e on
    training structures (``tools/charge_range.py``), ions of one charge 1.0 e. Beside metals
    charges may be larger.
    """
    if metals_of(elements):
        return (_OTHER_LIMIT,) * len(elements)
    return tuple(_LIMITS.get(z, _OTHER_LIMIT) for z in elements)


Layers = Literal["last", "all"]
Induction = Literal["none", "charges", "dipoles", "both"]
Anisotropy = Literal["isotropic", "anisotropic"]


@dataclass(frozen=True, kw_only=True)
class MultipoleConfig:
    """Moments beyond latent charges; see :mod:`lesff.heads.multipoles`.

    Attributes:
        dipoles: Latent dipoles, from node features of order 1.
        quadrupoles: Latent traceless quadrupoles, from node features of order 2.
        induced: What the potential and field of the latent moments induce on each atom.
        polarizability: Whether the polarizability of induced dipoles is a number or a tensor; a
            tensor needs node features of order 2.
    """

    dipoles: bool = False
    quadrupoles: bool = False
    induced: Induction = "none"
    polarizability: Anisotropy = "isotropic"

    def __post_init__(self) -> None:
        """Raise ConfigError for options without meaning."""
        for name, known in (("induced", Induction), ("polarizability", Anisotropy)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(
                    f"`long_range.multipoles.{name}` must be one of {', '.join(get_args(known))}, "
                    f"got {getattr(self, name)!r}"
                )
        # a section that selects nothing is a mistake
        if not (self.dipoles or self.quadrupoles or self.induced != "none"):
            raise ConfigError(
                "`long_range.multipoles` must select dipoles, quadrupoles or induced moments; "
                "leave it out for charges only"
            )
        if self.polarizability == "anisotropic" and not self.induces_dipoles:
            raise ConfigError(
                "`long_range.multipoles.polarizability` must be 'isotropic' without induced "
                f"dipoles, got 'anisotropic' with induced = {self.induced!r}"
            )

    @property
    def induces_charges(self) -> bool:
        """Whether charges are induced."""
        return self.induced in ("charges", "both")

    @property
    def induces_dipoles(self) -> bool:
        """Whether dipoles are induced."""
        return self.induced in ("dipoles", "both")

    @property
    def has_dipoles(self) -> bool:
        """Whether atoms have dipoles of any kind."""
        return self.dipoles or self.induces_dipoles

    @property
    def max_order(self) -> int:
        """Highest order of the node features that are read."""
        if self.quadrupoles or self.polarizability == "anisotropic":
            return 2
        return 1 if self.dipoles else 0

    def needing(self, order: int) -> str:
        """Names of what reads node features above an order."""
        # name, order of the features it needs, whether it is chosen
        rows = [("dipoles", 1, self.dipoles), ("quadrupoles", 2, self.quadrupoles)]
        rows.append(("an anisotropic polarizability", 2, self.polarizability == "anisotropic"))
        return " and ".join(name for name, needed, chosen in rows if chosen and needed > order)


@dataclass(frozen=True, kw_only=True)
class BaseHead:
    """A charge head below another one; fields as in :class:`LongRangeConfig`."""

    head: HeadName
    residual: bool = False
    min_hardness: float = 1.0
    reference_charges: tuple[float, ...] | None = None


MAX_BASES = 4
"""Heads that may lie below one."""


@dataclass(frozen=True, kw_only=True)
class LongRangeConfig:
    """Latent Coulomb interaction: charge head and constants.

    Attributes:
        head: Charge head.
        sigma: Gaussian width in A.
        dl: k-space resolution in A.
        remove_self_interaction: Whether each Gaussian's energy with itself is left out.
        prefactor: 1 / (2 eps0) in eV A / e^2; some published weights carry another value.
        readout_hidden: Hidden units of the last charge readout; None for a linear one.
        last_layer_readout_only: Whether only the last layer has a charge readout.
        readout_heads: Heads a published readout was trained with (its normalisation).
        cutoff: Whether wave vectors count in full up to the sphere (``"sharp"``, as in published
            weights) or fade out towards it (``"smooth"``: energies continuous in the cell).
        residual: Whether the head acts on top of the charges of a pretrained free head; see
            :mod:`lesff.heads.base`.
        bases: Pretrained heads below this one, the uppermost first, whose charges it changes; see
            :mod:`lesff.heads.base`.
        min_hardness: Lowest hardness of the heads ``"qeq"`` and ``"qeq-local"``, eV / e^2.
        transfer_layers: Whether what the head ``"edge"`` moves along edges is read off the
            invariants of the ``"last"`` layer or of ``"all"``.
        reference_charges: Charge of each element in e that the transfers of the head ``"edge"``
            start from, in the order of ``elements``; zero if not given.
        multipoles: Moments beyond charges, or None.
        charge_limits: Largest latent charge of each element in e, in the order of ``elements``, or
            None for charges without limit; :func:`charge_limits_of` gives those of our recipes.
        onset: Distance in A up to which the interaction of a pair of point charges fades in, or
            None for Gaussian charges; see :mod:`lesff.electrostatics.onset`.
        in_energy: Whether the moments interact. False for a head on a trunk whose energy holds
            their interaction already: energies and forces stay those of the trunk, and moments give
            dipoles, Born charges and the coupling to fields and point charges.
        charge_elements: Atomic numbers of the elements whose charges were trained, where those are
            fewer than the elements of the model; charges of others warn. None: all.
    """

    head: HeadName = "latent"
    sigma: float = 1.0
    dl: float = 2.0
    remove_self_interaction: bool = True
    prefactor: float = EWALD_PREFACTOR
    readout_hidden: int | None = 16
    last_layer_readout_only: bool = False
    readout_heads: int = 1
    cutoff: Cutoff = "sharp"
    residual: bool = False
    bases: tuple[BaseHead, ...] = ()
    min_hardness: float = 1.0
    transfer_layers: Layers = "last"
    reference_charges: tuple[float, ...] | None = None
    multipoles: MultipoleConfig | None = None
    charge_limits: tuple[float, ...] | None = None
    onset: float | None = None
    in_energy: bool = True
    charge_elements: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for options without meaning."""
        if self.head not in HEAD_NAMES:
            raise ConfigError(
                f"`long_range.head` must be one of {', '.join(HEAD_NAMES)}, got {self.head!r}"
            )
        self._check_sizes()
        # free heads have nothing to start from but themselves
        if self.residual and self.head in ("latent", "shifted"):
            raise ConfigError(
                f"`long_range.residual` must be false for the head {self.head!r}, got true"
            )
        if not 0.0 < self.min_hardness < 1000.0:
            raise ConfigError(
                f"`long_range.min_hardness` must be in (0, 1000) eV/e^2, got {self.min_hardness!r}"
            )
        is_edge = self.head == "edge" or any(base.head == "edge" for base in self.bases)
        if not is_edge and self.transfer_layers != "last":
            raise ConfigError(
                "`long_range.transfer_layers` is for the head 'edge'; leave it out, got "
                f"{self.transfer_layers!r} with {self.head!r}"
            )
        # other heads read their charges off the invariants, elements included
        if self.reference_charges is not None and (self.head != "edge" or self.residual):
            raise ConfigError(
                "`long_range.reference_charges` are for the head 'edge' without `residual`; leave "
                "them out"
            )
        self._check_bases()
        if not all(map(math.isfinite, self.reference_charges or ())):
            raise ConfigError(
                "`long_range.reference_charges` must be finite numbers in e, got "
                f"{self.reference_charges}"
            )
        self._check_onset()
        # the field of dipoles would have to enter the equations of the charges
        if self.multipoles is not None and self.head == "qeq":
            raise ConfigError(
                "`long_range.multipoles` must be null for the head 'qeq', whose charges "
                "equilibrate among themselves only; use 'latent', 'shifted', 'edge', 'fukui' or "
                "'qeq-local'"
            )
        # what follows from an energy needs it
        if not self.in_energy and (self.head == "qeq" or self._induces):
            raise ConfigError(
                "`long_range.in_energy` must be true for the head 'qeq' and for induced moments, "
                "which minimise an energy, got false"
            )

    @property
    def _induces(self) -> bool:
        return self.multipoles is not None and self.multipoles.induced != "none"

    def _check_sizes(self) -> None:
        # name of the field -> whether it is right, and what it must be
        whole = f"from 1 to {MAX_UNITS}"
        checks = {
            "readout_hidden": (
                self.readout_hidden is None or 1 <= self.readout_hidden <= MAX_UNITS,
                f"null or {whole}",
            ),
            "transfer_layers": (
                self.transfer_layers in get_args(Layers),
                f"one of {', '.join(get_args(Layers))}",
            ),
            "readout_heads": (1 <= self.readout_heads <= MAX_UNITS, whole),
            "sigma": (0.0 < self.sigma < 1000.0, "in (0, 1000) A"),
            "dl": (MIN_DL <= self.dl < 1000.0, f"in [{MIN_DL}, 1000) A"),
            "prefactor": (math.isfinite(self.prefactor), "finite"),
            "reference_charges": (
                len(self.reference_charges or ()) <= 118,
                "one number per element at most",
            ),
        }
        checks["charge_limits"] = (
            all(0.0 < limit <= MAX_LIMIT for limit in self.charge_limits or ()),
            f"null or numbers in (0, {MAX_LIMIT}] e",
        )
        checks["charge_elements"] = (
            self.charge_elements is None or all(1 <= z <= 118 for z in self.charge_elements),
            "null or atomic numbers",
        )
        for name, (is_good, expected) in checks.items():
            if not is_good:
                got = getattr(self, name)
                raise ConfigError(f"`long_range.{name}` must be {expected}, got {str(got)[:80]}")

    def _check_onset(self) -> None:
        """Raise ConfigError for charges whose interaction does not fade in."""
        if self.head == "carried" and self.residual:
            raise ConfigError(
                "`long_range.residual` must be left out for the head 'carried', whose charges are "
                "those of the architecture"
            )
        if self.onset is None:
            return
        if not 0.0 < self.onset < 1000.0:
            raise ConfigError(
                f"`long_range.onset` must be null or in (0, 1000) A, got {self.onset!r}"
            )
        if self.head == "qeq" or self.multipoles is not None:
            raise ConfigError(
                "`long_range.onset` must be null for the head 'qeq' and for multipoles, whose "
                "equations have the interaction of Gaussian charges"
            )

    def _check_bases(self) -> None:
        """Raise ConfigError for heads that cannot lie below this one."""
        if not self.bases:
            return
        if self.residual or self.reference_charges is not None:
            raise ConfigError(
                "`long_range.bases` exclude `residual` and `reference_charges`, which say what a "
                "head without `bases` starts from; leave them out"
            )
        if len(self.bases) > MAX_BASES:
            raise ConfigError(
                f"`long_range.bases` must be at most {MAX_BASES} heads, got {len(self.bases)}"
            )
        if any(base.head == "qeq" for base in self.bases):
            raise ConfigError(
                "`long_range.bases` must not hold the head 'qeq': its charges minimise an energy, "
                "which those of another head on top would not"
            )
        _ = self.base  # its own checks

    @property
    def base(self) -> LongRangeConfig | None:
        """Configuration of the head below, None without."""
        if not self.bases:
            return None
        first, *rest = self.bases
        return replace(
            self,
            head=first.head,
            residual=first.residual,
            min_hardness=first.min_hardness,
            reference_charges=first.reference_charges,
            bases=tuple(rest),
        )

    def topped_by(self, head: HeadName) -> LongRangeConfig:
        """Configuration of another head on top of this one."""
        own = BaseHead(
            head=self.head,
            residual=self.residual,
            min_hardness=self.min_hardness,
            reference_charges=self.reference_charges,
        )
        return replace(
            self,
            head=head,
            residual=False,
            min_hardness=1.0,
            reference_charges=None,
            bases=(own, *self.bases),
        )

    @property
    def readouts(self) -> ReadoutConfig:
        """Charge readouts."""
        return ReadoutConfig(
            hidden=self.readout_hidden,
            last_layer_only=self.last_layer_readout_only,
            n_heads=self.readout_heads,
        )

    def settings(self) -> EwaldSettings:
        """Constants of the Coulomb sum."""
        return EwaldSettings(
            sigma=self.sigma,
            dl=self.dl,
            remove_self_interaction=self.remove_self_interaction,
            prefactor=self.prefactor,
            cutoff=self.cutoff,
        )
