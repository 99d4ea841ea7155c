"""Relaxes a predicted structure in a force field until its geometry violates nothing."""

import dataclasses
import logging
import time
from typing import Annotated, Literal

import gemmi
import numpy as np

from fastfold_jax.config.options import at_least, option, positive
from fastfold_jax.inference import relax_openmm
from fastfold_jax.inference.relax_chains import Peptides
from fastfold_jax.inference.relax_rings import pierced
from fastfold_jax.inference.relax_violations import Violations, find_violations

logger = logging.getLogger(__name__)


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
    """Relaxes the first model of a structure until it violates nothing, as AlphaFold does.

    Heavy atoms are held by springs where they were predicted. Where violations are left, their residues are let go and
    the energy minimised again. Beyond what AlphaFold does, side chains that go through a ring of another one, or that
    violate although they were let go, are taken off and built anew; such tangles no minimisation resolves. Chains of a
    single residue, for which Amber has no terms, stay as they are; residues that are no amino acids are left out.

    Raises:
      RelaxError: if OpenMM is not installed, or cannot do it; a `UserError`.
    """
    relax_openmm.require()
    start = time.perf_counter()
    before = find_violations(structure)
    peptides = Peptides.of(structure)
    state = peptides.completed()
    reference = state.positions
    if (threaded := pierced(state)).any():
        state = peptides.rebuilt(state, threaded)
    free = np.zeros(peptides.num_residues, bool)
    energies = []
    for rounds in range(1, options.relax_rounds + 1):
        minimised = relax_openmm.minimise(
            state,
            held=peptides.heavy(state) & ~free[peptides.residue(state)],
            stiffness=options.relax_stiffness,
            tolerance=options.relax_tolerance,
            iterations=options.relax_iterations,
            platform=options.relax_platform,
        )
        energies += [minimised.initial_energy, minimised.final_energy]
        state = dataclasses.replace(state, positions=minimised.positions)
        relaxed = peptides.structure(state)
        after = find_violations(relaxed)
        logger.info(
            "relaxation, round %d on %s: %.0f to %.0f kcal/mol, %d of %d residues with violations",
            *(rounds, minimised.platform, *energies[-2:], after.count, len(after.per_residue)),
        )
        violating, threaded = after.per_residue[peptides.in_structure(relaxed)], pierced(state)
        if not (after.count or threaded.any()) or rounds == options.relax_rounds:
            break
        # What violates although nothing held it will not come free in another round either.
        if (stuck := threaded | (violating & free)).any():
            state = peptides.rebuilt(state, stuck)
        free |= violating | threaded
    moved = (state.positions - reference)[peptides.heavy(state)]
    return RelaxResult(
        structure=relaxed,
        before=before,
        after=after,
        initial_energy=energies[0],
        final_energy=energies[-1],
        rmsd=float(np.sqrt((moved**2).sum(axis=-1).mean())),
        rounds=rounds,
        platform=minimised.platform,
        seconds=time.perf_counter() - start,
    )
