"""How far a structure's geometry departs from what chemistry allows, as AlphaFold counts it."""

import dataclasses

import numpy as np
from jaxtyping import Bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Violations:
    """What is wrong with a structure of n residues (AlphaFold 2 supplement, section 1.9.11).

    Attributes:
      per_residue: [n], whether a residue takes part in any violation.
      bonds: Share of residues with a peptide bond whose length or angles are off.
      clashes: Share of residues with an atom too close to one of another residue.
      within: Share of residues whose own atoms are too close or too far apart.
      extreme_ca_ca: Share of neighbours whose Cα atoms are over 1.5 Å too far apart.
    """

    per_residue: Bool[np.ndarray, " n"]
    bonds: float
    clashes: float
    within: float
    extreme_ca_ca: float

    @property
    def count(self) -> int:
        """Residues with any violation."""
        return int(self.per_residue.sum())
