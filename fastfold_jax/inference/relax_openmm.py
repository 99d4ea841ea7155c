"""The parts of relaxation that speak to OpenMM and PDBFixer."""

import dataclasses
import functools
import io
import logging
import random
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import gemmi
import numpy as np
from jaxtyping import Bool, Float

from fastfold_jax.errors import UserError

logger = logging.getLogger(__name__)

_FORCE_FIELD = "amber14/protein.ff14SB.xml"
_PH = 7.0
_ATTEMPTS = 3
_TELL_EVERY = 30.0  # seconds
_CONSTRAINED = 1e-4  # relative deviation of bonds to hydrogens
_RANDOM = threading.Lock()
_GPU = threading.Lock()
_KJ_PER_KCAL = 4.184
_PLATFORMS = {"cuda": "CUDA", "opencl": "OpenCL", "cpu": "CPU"}
_ON_GPU = ("CUDA", "OpenCL")


class RelaxError(UserError):
    """Raised when OpenMM or a platform is missing."""


class RelaxFailed(RelaxError):
    """Raised when this structure cannot be relaxed; others may be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complete:
    """A structure with all its atoms.

    Attributes:
      topology: OpenMM's; its chains are the runs of residues that were given.
      positions: [atoms, 3] Å.
    """

    topology: Any
    positions: Float[np.ndarray, "atoms 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What OpenMM computes on: auto, cuda, opencl or cpu, and on so many threads if that is the CPU."""

    platform: str
    threads: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where a minimisation ends though it has not converged: after so many steps, or seconds."""

    steps: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Minimised:
    """What a minimisation ended with.

    Attributes:
      positions: [atoms, 3] Å.
      initial_energy, final_energy: kcal/mol.
      steps: Number of steps.
      seconds: Time that they took.
      converged: Whether it came to its end, and not to its bounds or to energies that are not numbers.
      platform: What it ran on.
    """

    positions: Float[np.ndarray, "atoms 3"]
    initial_energy: float
    final_energy: float
    steps: int
    seconds: float
    converged: bool
    platform: str


def require() -> None:
    """Raises a `RelaxError` unless OpenMM and PDBFixer are installed."""
    try:
        import openmm  # noqa: F401
        import pdbfixer  # noqa: F401
    except ImportError as error:
        raise RelaxError(
            f"relaxation needs OpenMM and PDBFixer ({error}): pip install 'fastfold-jax[relax]'; or give --relax none"
        ) from None


def program() -> str:
    """OpenMM's name and version."""
    import openmm

    return f"OpenMM {openmm.Platform.getOpenMMVersion()}"


def require_platform(device: Device) -> None:
    """Raises a `RelaxError` unless OpenMM can compute there: a system of one particle is tried."""
    import openmm

    system = openmm.System()
    system.addParticle(1.0)
    with closing(_contexts(system, device)) as contexts:
        next(contexts)


def standard_name(residue: gemmi.Residue) -> str | None:
    """The standard amino acid that a residue is or stands for (MSE: MET), None if it is none."""
    from pdbfixer.pdbfixer import proteinResidues, substitutions

    name = residue.name.strip()
    return name if name in proteinResidues else substitutions.get(name)


def complete(runs: Sequence[Sequence[gemmi.Residue]]) -> Complete:
    """Adds the atoms that are missing, hydrogens and the ends' included, to runs of connected residues.

    Hydrogens that are there are kept in neither number nor place; pH is 7. The same runs are always completed alike.

    Raises:
      RelaxFailed: if PDBFixer can't.
    """
    from openmm import unit
    from pdbfixer import PDBFixer

    text = io.StringIO(_bare(runs).make_mmcif_document().as_string())
    try:
        fixer = PDBFixer(pdbxfile=text, platform=_reproducible_platform())
        fixer.findNonstandardResidues()
        fixer.replaceNonstandardResidues()
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=1)  # 0 would be another each time
        with _fixed_random():
            fixer.addMissingHydrogens(_PH)
    except Exception as error:
        raise RelaxFailed(f"the structure cannot be completed for relaxation ({_one_line(error)})") from error
    counts = [sum(1 for _ in chain.residues()) for chain in fixer.topology.chains()]
    if counts != [len(run) for run in runs]:
        raise RelaxFailed(f"PDBFixer made chains of {counts} residues from {[len(run) for run in runs]}")
    positions = np.array(fixer.positions.value_in_unit(unit.angstrom), float)
    return Complete(topology=fixer.topology, positions=positions)


def _reproducible_platform() -> Any:
    """A platform that gives the same forces each time, for minimisations of others' code."""
    import openmm

    platform = openmm.Platform.getPlatformByName("CPU")
    platform.setPropertyDefaultValue("Threads", "1")
    return platform


@contextmanager
def _fixed_random() -> Iterator[None]:
    """Python's own generator in a known state: OpenMM draws hydrogens' first places from it."""
    with _RANDOM:
        state = random.getstate()
        random.seed(0)
        try:
            yield
        finally:
            random.setstate(state)


def _bare(runs: Sequence[Sequence[gemmi.Residue]]) -> gemmi.Structure:
    """A structure of the heavy atoms only, each run a chain, numbered from 1."""
    structure = gemmi.Structure()
    model = gemmi.Model(1)
    for index, run in enumerate(runs, start=1):
        chain = gemmi.Chain(f"R{index}")
        for number, given in enumerate(run, start=1):
            residue = gemmi.Residue()
            residue.name = given.name
            residue.seqid = gemmi.SeqId(number, " ")
            residue.het_flag = "A"
            residue.subchain = chain.name
            for atom in _first_conformer(given):
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.assign_serial_numbers()
    return structure


def _first_conformer(residue: gemmi.Residue) -> list[gemmi.Atom]:
    """The heavy atoms, each once: of alternative places the one with the highest occupancy."""
    chosen: dict[str, gemmi.Atom] = {}
    for atom in residue:
        known = chosen.get(atom.name)
        if not atom.is_hydrogen() and (known is None or atom.occ > known.occ):
            chosen[atom.name] = atom.clone()
    for atom in chosen.values():
        atom.altloc = "\0"
    return list(chosen.values())


def minimise(
    given: Complete,
    *,
    held: Bool[np.ndarray, " atoms"],
    stiffness: float,
    tolerance: float,
    bounds: Bounds,
    device: Device,
) -> Minimised:
    """Minimises the energy in Amber's ff14SB with springs to where atoms are.

    Bonds to hydrogens have fixed lengths; there is no solvent and no cutoff, as in AlphaFold.

    Args:
      given: The structure.
      held: Which atoms have springs.
      stiffness: Stiffness of the springs, kcal/mol/Å².
      tolerance: Root mean square force at which to stop, kcal/mol/nm.
      bounds: When to stop otherwise.
      device: What to compute on.

    Raises:
      RelaxError: if no platform works.
      RelaxFailed: if the force field does not know a residue, or the energy is never a number.
    """
    from openmm import app

    try:
        field = app.ForceField(_FORCE_FIELD)
        system = field.createSystem(given.topology, constraints=app.HBonds)
    except Exception as error:
        raise RelaxFailed(f"the force field cannot be applied ({_one_line(error)})") from error
    system.addForce(_springs(given.positions, held, stiffness))
    failure = ""
    with closing(_contexts(system, device)) as contexts:
        for context in contexts:
            if failure:
                _tell(f"relaxation fails on {failure}; on {context.getPlatform().getName()} then")
            for attempt in range(_ATTEMPTS):
                positions = given.positions
                if attempt:  # atoms in one place have no direction to part in
                    positions = positions + np.random.default_rng(attempt).normal(0, 0.02, positions.shape)
                try:
                    return _minimise_in(context, positions, tolerance, bounds)
                except Exception as error:  # OpenMM raises bare exceptions for whatever a driver or a number does
                    failure = f"{context.getPlatform().getName()}: {_one_line(error)}"
                    logger.debug("attempt %d at relaxation: %s", attempt + 1, failure)
    raise RelaxFailed(f"the energy cannot be minimised ({failure})")


def _contexts(system: Any, device: Device) -> Generator[Any, None, None]:
    """The system on each platform that works, fastest first.

    On one thread, or a GPU, results are the same each time. A GPU, of whose memory JAX leaves little, has one system at
    a time: while this yields one, no other thread gets any.

    Raises:
      RelaxError: if there is none.
    """
    import openmm

    names, failures = _candidates(device.platform), []
    wanted = {"DeterministicForces": "true", "Threads": str(device.threads)}
    for name, following in zip(names, [*names[1:], None], strict=True):
        platform = openmm.Platform.getPlatformByName(name)
        properties = {key: value for key, value in wanted.items() if key in platform.getPropertyNames()}
        with _GPU if name in _ON_GPU else nullcontext():
            try:
                context = openmm.Context(system, openmm.VerletIntegrator(0.0), platform, properties)
            except Exception as error:
                failures.append(f"{name}: {_one_line(error)}")
                if following is not None:
                    _tell(f"no relaxation on {failures[-1]}; on {following} then")
            else:
                yield context
                del context
    if len(failures) == len(names):
        raise RelaxError(f"--relax-platform {device.platform}: does not work here ({'; '.join(failures)})")


@functools.cache
def _tell(text: str) -> None:
    """Warns of what every structure would warn of, once."""
    logger.warning(text)


def _candidates(platform: str) -> list[str]:
    """Platforms to try, fastest first.

    Raises:
      RelaxError: if one that is asked for is not there.
    """
    import openmm

    have = {openmm.Platform.getPlatform(index).getName() for index in range(openmm.Platform.getNumPlatforms())}
    wanted = list(_PLATFORMS.values()) if platform == "auto" else [_PLATFORMS[platform]]
    found = [name for name in wanted if name in have]
    if not found:
        raise RelaxError(
            f"--relax-platform {platform}: this OpenMM has no such platform, only {', '.join(sorted(have))}"
        )
    return found


def _springs(reference: Float[np.ndarray, "atoms 3"], held: Bool[np.ndarray, " atoms"], stiffness: float) -> Any:
    """Harmonic restraints, `k/2 |x - x0|²`."""
    import openmm

    force = openmm.CustomExternalForce("0.5 * k * ((x-x0)^2 + (y-y0)^2 + (z-z0)^2)")
    force.addGlobalParameter("k", stiffness * _KJ_PER_KCAL * 100)  # per Å² to per nm²
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for index in np.flatnonzero(held):
        force.addParticle(int(index), (reference[index] / 10).tolist())
    return force


def _minimise_in(context: Any, positions: Float[np.ndarray, "atoms 3"], tolerance: float, bounds: Bounds) -> Minimised:
    """Minimises from `positions`; ended early, or by energies that are no numbers, it leaves the last good step.

    Raises:
      ArithmeticError, openmm.OpenMMException: if they never were.
    """
    import openmm
    from openmm import unit

    begun = time.monotonic()
    context.setPositions(positions / 10)
    initial = _energy(context)
    watch = _watch(bounds)
    force = tolerance * _KJ_PER_KCAL * unit.kilojoules_per_mole / unit.nanometer
    problem: Exception | None = None
    try:
        openmm.LocalEnergyMinimizer.minimize(context, force, 0, watch)
        final, moved = _energy(context), _positions(context)
    except Exception as error:  # among others that positions are no numbers
        problem = error
    converged = problem is None and not watch.stopped
    if not converged and watch.good is not None:
        context.setPositions(np.reshape(watch.good, (-1, 3)))
        context.applyConstraints(_CONSTRAINED)
        final, moved = _energy(context), _positions(context)
    elif problem is not None:
        raise problem
    if not np.isfinite(final):
        raise ArithmeticError(f"energy {final} kcal/mol")
    return Minimised(
        positions=moved,
        initial_energy=initial,
        final_energy=final,
        steps=watch.steps,
        seconds=time.monotonic() - begun,
        converged=converged,
        platform=context.getPlatform().getName(),
    )


def _watch(bounds: Bounds) -> Any:
    """Counts the steps of a minimisation, keeps the last good one, and ends it at its bounds."""
    import openmm

    class Watch(openmm.MinimizationReporter):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0
            self.stopped = False
            self.good: Sequence[float] | None = None
            self._begun = self._told = time.monotonic()

        def report(self, iteration: int, x: Sequence[float], grad: Sequence[float], args: Any) -> bool:
            del iteration, grad  # it starts again from time to time; OpenMM passes these by position
            if self.stopped:  # asked to end, OpenMM still starts again with stiffer bonds if some are off
                return True
            energy, now = args["system energy"], time.monotonic()
            self.steps += 1
            if np.isfinite(energy):
                self.good = x
            if now - self._told > _TELL_EVERY:
                self._told = now
                logger.info("relaxation, step %d: %.0f kcal/mol", self.steps, energy / _KJ_PER_KCAL)
            self.stopped = self.steps >= bounds.steps or now - self._begun > bounds.seconds or not np.isfinite(energy)
            return self.stopped

    return Watch()


def _positions(context: Any) -> Float[np.ndarray, "atoms 3"]:
    from openmm import unit

    state = context.getState(getPositions=True)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom), float)


def _energy(context: Any) -> float:
    from openmm import unit

    return float(context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilocalories_per_mole))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
