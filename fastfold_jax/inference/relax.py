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
    relax_threads: Annotated[
        int,
        option(
            "Processor cores that a relaxation on the CPU uses. With one, the same prediction is always relaxed to the "
            "same structure; several are faster, and differ in the last digits of their sums.",
            metavar="N",
        ),
    ] = 1
    relax_stiffness: Annotated[
        float, option("How firmly heavy atoms are held where they were predicted.", metavar="KCAL/MOL/Å²")
    ] = 10.0
    relax_tolerance: Annotated[float, option("Force at which a minimisation has converged.", metavar="KCAL/MOL/NM")] = (
        2.39
    )
    relax_iterations: Annotated[
        int,
        option(
            "Most steps of all minimisations together, 0 for as many as it takes. Sound predictions need 200 to 2,000.",
            metavar="N",
        ),
    ] = 10_000
    relax_minutes: Annotated[
        float, option("Most time that the minimisations of one structure may take.", metavar="MINUTES")
    ] = 60.0
    relax_rounds: Annotated[
        int,
        option(
            "Most minimisations; after each, residues that still violate are released from their restraints.",
            metavar="N",
        ),
    ] = 3

    def __post_init__(self):
        at_least(0, relax_iterations=self.relax_iterations)
        at_least(1, relax_rounds=self.relax_rounds, relax_threads=self.relax_threads)
        positive(
            relax_stiffness=self.relax_stiffness,
            relax_tolerance=self.relax_tolerance,
            relax_minutes=self.relax_minutes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxResult:
    """A relaxed structure.

    Attributes:
      structure: The same chains and residues with all their atoms, hydrogens included; B factors (pLDDT) are kept.
      before, after: Violations of the structure given and of this one.
      initial_energy, final_energy: kcal/mol, restraints included, at the first minimisation's start and the last's end.
      rmsd: RMSD of heavy atoms from where they were predicted, Å.
      rounds: Number of minimisations.
      steps: Steps of all minimisations.
      problem: Why the last minimisation did not come to its end; None if it did.
      program: What minimised, with its version.
      platform: What the minimisations ran on.
      seconds: Wall time.
    """

    structure: gemmi.Structure
    before: Violations
    after: Violations
    initial_energy: float
    final_energy: float
    rmsd: float
    rounds: int
    steps: int
    problem: str | None
    program: str
    platform: str
    seconds: float


def check(options: RelaxOptions) -> None:
    """Checks that predictions can be relaxed here, if they are to be.

    Raises:
      RelaxError: if OpenMM is not installed, or the platform does not work.
    """
    if options.relax != "none":
        relax_openmm.require()
        relax_openmm.require_platform(_device(options))


def _device(options: RelaxOptions) -> relax_openmm.Device:
    return relax_openmm.Device(platform=options.relax_platform, threads=options.relax_threads)


def relax(structure: gemmi.Structure, options: RelaxOptions) -> RelaxResult:
    """Relaxes the first model of a structure until it violates nothing, as AlphaFold does.

    Heavy atoms are held by springs where they were predicted. Where violations are left, their residues are
    released from their restraints and the energy is minimised again. Beyond what AlphaFold does, side chains that pass
    through a ring of another one, or that still violate after their release, are taken off and rebuilt; no minimisation
    resolves such tangles. Chains of a single residue, for which Amber has no terms, stay as they are; residues that are
    not amino acids are left out.

    What does not converge within the options' bounds, or fails in a later round, ends with what there is by then, and
    the result says so.

    Raises:
      RelaxFailed: if nothing can be done with this structure.
      RelaxError: if OpenMM is not installed, or a platform does not work; both are `UserError`s.
    """
    relax_openmm.require()
    start = time.perf_counter()
    before = find_violations(structure)
    peptides = Peptides.of(structure)
    state = peptides.completed()
    relaxation = _Relaxation(peptides, options)
    relaxation.run(state)
    moved = (relaxation.state.positions - state.positions)[peptides.heavy(state)]
    return RelaxResult(
        structure=relaxation.relaxed,
        before=before,
        after=relaxation.after,
        initial_energy=relaxation.rounds[0].initial_energy,
        final_energy=relaxation.rounds[-1].final_energy,
        rmsd=float(np.sqrt((moved**2).sum(axis=-1).mean())),
        rounds=len(relaxation.rounds),
        steps=relaxation.steps,
        problem=relaxation.problem,
        program=relax_openmm.program(),
        platform=relaxation.rounds[-1].platform,
        seconds=time.perf_counter() - start,
    )


class _Relaxation:
    """The rounds of a relaxation.

    Attributes:
      rounds: The minimisations made.
      state: What the last one left.
      relaxed, after: The same as a structure, and its violations.
      problem: As in `RelaxResult`.
    """

    state: relax_openmm.Complete
    relaxed: gemmi.Structure
    after: Violations

    def __init__(self, peptides: Peptides, options: RelaxOptions):
        self.rounds: list[relax_openmm.Minimised] = []
        self.problem: str | None = None
        self._peptides = peptides
        self._options = options
        self._free = np.zeros(peptides.num_residues, bool)

    @property
    def steps(self) -> int:
        """Steps of all minimisations."""
        return sum(made.steps for made in self.rounds)

    def run(self, state: relax_openmm.Complete) -> None:
        """Minimises until nothing violates, or as often as the options allow.

        Raises:
          RelaxFailed: if not even the first round can be made.
        """
        stuck = pierced(state)
        while True:
            try:
                self._minimise(self._peptides.rebuilt(state, stuck) if stuck.any() else state)
            except relax_openmm.RelaxFailed as error:
                if not self.rounds:
                    raise
                self.problem = f"round {len(self.rounds) + 1} failed: {error}"
                return
            state = self.state
            violating = self.after.per_residue[self._peptides.in_structure(self.relaxed)]
            threaded = pierced(state)
            if not self.rounds[-1].converged:
                self.problem = f"not converged after {self.steps:,} steps"
                return
            if not (self.after.count or threaded.any()) or len(self.rounds) == self._options.relax_rounds:
                return
            # What violates although nothing held it will not come free in another round either.
            stuck = threaded | (violating & self._free)
            self._free |= violating | threaded

    def _minimise(self, state: relax_openmm.Complete) -> None:
        """One round."""
        peptides, options = self._peptides, self._options
        made = relax_openmm.minimise(
            state,
            held=peptides.heavy(state) & ~self._free[peptides.residue(state)],
            stiffness=options.relax_stiffness,
            tolerance=options.relax_tolerance,
            bounds=relax_openmm.Bounds(
                steps=options.relax_iterations - self.steps if options.relax_iterations else np.inf,
                seconds=60 * options.relax_minutes - sum(made.seconds for made in self.rounds),
            ),
            device=_device(options),
        )
        self.rounds.append(made)
        self.state = dataclasses.replace(state, positions=made.positions)
        self.relaxed = peptides.structure(self.state)
        self.after = find_violations(self.relaxed)
        logger.info(
            "relaxation, round %d on %s: %.6g to %.6g kcal/mol in %d steps, %d of %d residues with violations",
            *(len(self.rounds), made.platform, made.initial_energy, made.final_energy, made.steps),
            *(self.after.count, len(self.after.per_residue)),
        )
