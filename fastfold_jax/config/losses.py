"""Weights and constants of the training losses, with those of the papers' stages as named rows."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class FapeTerm:
    """One frame aligned point error: errors are cut at `clamp` Å and counted in units of `unit` Å."""

    clamp: float
    unit: float

    def __post_init__(self):
        if min(self.clamp, self.unit) <= 0:
            raise ValueError(f"{self}: both distances must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms of the loss (AlphaFold 2 supplement, equation 7) and what they measure with.

    Attributes:
      backbone: Backbone FAPE within chains, the mean over all layers.
      interface: Backbone FAPE between chains; None for monomers, which have no second chain.
      side_chain: All-atom FAPE of the last layer.
      side_chain_fraction: Share of the side chains' FAPE; the backbone has the rest.
      chi, angle_norm: Weights of chi angles and of unit length before normalisation.
      distogram, masked_msa, lddt, aligned_error, resolved: Weights of the heads.
      violation: Weight of broken stereochemistry, which the papers use in fine-tuning only.
      center_of_mass: Weight of chains that lie closer together than they should.
      min_resolution, max_resolution: Å; outside of them the losses of confidence and of resolved atoms are left out.
      violation_tolerance: Standard deviations of bond lengths and angles that are tolerated.
      clash_tolerance: Å that two atoms may overlap.
    """

    backbone: FapeTerm = FapeTerm(clamp=10.0, unit=10.0)
    interface: FapeTerm | None = None
    side_chain: FapeTerm = FapeTerm(clamp=10.0, unit=10.0)
    side_chain_fraction: float = 0.5
    chi: float = 0.5
    angle_norm: float = 0.01
    distogram: float = 0.3
    masked_msa: float = 2.0
    lddt: float = 0.01
    aligned_error: float = 0.0
    resolved: float = 0.0
    violation: float = 0.0
    center_of_mass: float = 0.0
    min_resolution: float = 0.1
    max_resolution: float = 3.0
    violation_tolerance: float = 12.0
    clash_tolerance: float = 1.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value < float("inf"):
                raise ValueError(f"{field.name}={value}: accepted are finite numbers from 0")
        if self.side_chain_fraction > 1:
            raise ValueError(f"side_chain_fraction={self.side_chain_fraction}: accepted are numbers from 0 to 1")


INITIAL = LossConfig()
"""Initial training (supplement, 1.9.1 and table 4)."""

FINE_TUNING = dataclasses.replace(INITIAL, violation=1.0, resolved=0.01)
"""Fine-tuning: violations count, and whether atoms are resolved."""

PTM = dataclasses.replace(FINE_TUNING, aligned_error=0.1)
"""Fine-tuning with the head of predicted aligned errors."""

MULTIMER = dataclasses.replace(
    INITIAL,
    interface=FapeTerm(clamp=1000.0, unit=20.0),
    aligned_error=0.1,
    resolved=0.01,
    center_of_mass=1.0,
)
"""AlphaFold-Multimer's initial training: interfaces and centres of mass are those of Evans et al. 2022, section 2.5,
the distances of interfaces and the heads' weights the released code's."""

MULTIMER_FINE_TUNING = dataclasses.replace(MULTIMER, violation=1.0)
"""AlphaFold-Multimer's fine-tuning: violations count, at the released code's weight."""
