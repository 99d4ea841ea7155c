"""Relaxes a predicted structure in a force field until its geometry violates nothing."""

import dataclasses
from typing import Annotated, Literal

import gemmi

from fastfold_jax.config.options import at_least, option, positive
from fastfold_jax.inference.relax_violations import Violations


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxOptions:
    """Relaxation with OpenMM, which removes clashes and strained bonds and adds hydrogens."""

    relax: Annotated[
        Literal["none", "best", "all"], option("Which predictions to relax: none, the best ranked, or all.")
    ] = "none"
    relax_platform: Annotated[
        Literal["auto", "cuda", "opencl", "cpu"],
        option("What OpenMM computes on. `auto` is the fastest that works; one named here that cannot is an error."),
    ] = "auto"
    relax_stiffness: Annotated[
        float, option("How firmly heavy atoms are held where they were predicted.", metavar="KCAL/MOL/Å²")
    ] = 10.0
    relax_tolerance: Annotated[float, option("Force at which a minimisation has converged.", metavar="KCAL/MOL/NM")] = (
        2.39
    )
    relax_iterations: Annotated[
        int, option("Most steps of each minimisation; 0 for as many as it takes.", metavar="N")
    ] = 0
    relax_rounds: Annotated[
        int,
        option("Most minimisations; after each, residues that still violate are let go for the next one.", metavar="N"),
    ] = 3

    def __post_init__(self):
        at_least(0, relax_iterations=self.relax_iterations)
        at_least(1, relax_rounds=self.relax_rounds)
        positive(relax_stiffness=self.relax_stiffness, relax_tolerance=self.relax_tolerance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxResult:
    """A relaxed structure.

    Attributes:
      structure: The same chains and residues with all their atoms, hydrogens included; B factors (pLDDT) are kept.
      before, after: Violations of the structure given and of this one.
      initial_energy, final_energy: kcal/mol, restraints included, at the first minimisation's start and the last's end.
      rmsd: Of heavy atoms from where they were predicted, Å.
      rounds: Minimisations made.
      platform: What they ran on.
      seconds: Wall time.
    """

    structure: gemmi.Structure
    before: Violations
    after: Violations
    initial_energy: float
    final_energy: float
    rmsd: float
    rounds: int
    platform: str
    seconds: float


def relax(structure: gemmi.Structure, options: RelaxOptions) -> RelaxResult:
    """Relaxes a structure (work in progress)."""
    raise NotImplementedError
