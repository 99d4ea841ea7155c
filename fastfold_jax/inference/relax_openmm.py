"""The parts of relaxation that speak to OpenMM and PDBFixer."""

import dataclasses
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gemmi
import numpy as np
from jaxtyping import Bool, Float

from fastfold_jax.errors import UserError

if TYPE_CHECKING:
    import openmm
    from openmm import app

logger = logging.getLogger(__name__)

_FORCE_FIELD = "amber14/protein.ff14SB.xml"
_PH = 7.0
_ATTEMPTS = 3
_KJ_PER_KCAL = 4.184
_PLATFORMS = {"cuda": "CUDA", "opencl": "OpenCL", "cpu": "CPU"}


class RelaxError(UserError):
    """A structure that cannot be relaxed, or a force field or platform that is not there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complete:
    """A structure with all its atoms.

    Attributes:
      topology: OpenMM's; its chains are the runs of residues that were given.
      positions: [atoms, 3] Å.
    """

    topology: "app.Topology"
    positions: Float[np.ndarray, "atoms 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Minimised:
    """What a minimisation ended with: positions in Å, energies in kcal/mol, and what it ran on."""

    positions: Float[np.ndarray, "atoms 3"]
    initial_energy: float
    final_energy: float
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


def standard_name(residue: gemmi.Residue) -> str | None:
    """The standard amino acid that a residue is or stands for (MSE: MET), None if it is none."""
    from pdbfixer.pdbfixer import proteinResidues, substitutions

    name = residue.name.strip()
    return name if name in proteinResidues else substitutions.get(name)


def complete(runs: Sequence[Sequence[gemmi.Residue]]) -> Complete:
    """Adds the atoms that are missing, hydrogens and the ends' included, to runs of connected residues.

    Hydrogens that are there are kept in neither number nor place; pH is 7.

    Raises:
      RelaxError: if PDBFixer can't.
    """
    from openmm import unit
    from pdbfixer import PDBFixer

    text = io.StringIO(_bare(runs).make_mmcif_document().as_string())
    try:
        fixer = PDBFixer(pdbxfile=text)
        fixer.findNonstandardResidues()
        fixer.replaceNonstandardResidues()
        fixer.missingResidues = {}
        fixer.findMissingAtoms()
        fixer.addMissingAtoms(seed=0)
        fixer.addMissingHydrogens(_PH)
    except Exception as error:
        raise RelaxError(f"the structure cannot be completed for relaxation ({_one_line(error)})") from error
    counts = [sum(1 for _ in chain.residues()) for chain in fixer.topology.chains()]
    if counts != [len(run) for run in runs]:
        raise RelaxError(f"PDBFixer made chains of {counts} residues from {[len(run) for run in runs]}")
    positions = np.array(fixer.positions.value_in_unit(unit.angstrom), float)
    return Complete(topology=fixer.topology, positions=positions)


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
    iterations: int,
    platform: str,
) -> Minimised:
    """Minimises the energy in Amber's ff14SB with springs to where atoms are.

    Bonds to hydrogens have fixed lengths; there is no solvent and no cutoff, as in AlphaFold.

    Args:
      given: The structure.
      held: Which atoms have springs.
      stiffness: Of the springs, kcal/mol/Å².
      tolerance: Root mean square force at which to stop, kcal/mol/nm.
      iterations: Most steps; 0 for no limit.
      platform: auto, cuda, opencl or cpu.

    Raises:
      RelaxError: if the force field does not know a residue, no platform works, or the energy is no number.
    """
    from openmm import app

    try:
        field = app.ForceField(_FORCE_FIELD)
        system = field.createSystem(given.topology, constraints=app.HBonds)
    except Exception as error:
        raise RelaxError(f"the force field cannot be applied ({_one_line(error)})") from error
    system.addForce(_springs(given.positions, held, stiffness))
    failure = "no attempt was made"
    for attempt in range(_ATTEMPTS):
        for name in _candidates(platform):
            positions = given.positions
            if attempt:  # atoms in one place have no direction to part in
                positions = positions + np.random.default_rng(attempt).normal(0, 0.02, positions.shape)
            try:
                return _minimise_on(name, given.topology, system, positions, tolerance, iterations)
            except Exception as error:  # OpenMM raises bare exceptions for whatever a driver or a number does
                failure = f"{name}: {_one_line(error)}"
                logger.debug("attempt %d at relaxation: %s", attempt + 1, failure)
    raise RelaxError(f"relaxation failed {_ATTEMPTS} times ({failure})")


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


def _springs(
    reference: Float[np.ndarray, "atoms 3"], held: Bool[np.ndarray, " atoms"], stiffness: float
) -> "openmm.CustomExternalForce":
    """Harmonic restraints, `k/2 |x - x0|²`."""
    import openmm

    force = openmm.CustomExternalForce("0.5 * k * ((x-x0)^2 + (y-y0)^2 + (z-z0)^2)")
    force.addGlobalParameter("k", stiffness * _KJ_PER_KCAL * 100)  # per Å² to per nm²
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for index in np.flatnonzero(held):
        force.addParticle(int(index), (reference[index] / 10).tolist())
    return force


def _minimise_on(
    name: str,
    topology: "app.Topology",
    system: "openmm.System",
    positions: Float[np.ndarray, "atoms 3"],
    tolerance: float,
    iterations: int,
) -> Minimised:
    import openmm
    from openmm import app, unit

    integrator = openmm.LangevinIntegrator(0, 0.01, 0.0)
    platform = openmm.Platform.getPlatformByName(name)
    known = platform.getPropertyNames()
    properties = {"DeterministicForces": "true"} if "DeterministicForces" in known else {}
    simulation = app.Simulation(topology, system, integrator, platform, properties)
    simulation.context.setPositions(positions / 10)
    initial = _energy(simulation.context)
    simulation.minimizeEnergy(
        maxIterations=iterations,
        tolerance=tolerance * _KJ_PER_KCAL * unit.kilojoules_per_mole / unit.nanometer,
    )
    final = _energy(simulation.context)
    state = simulation.context.getState(getPositions=True)
    moved = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom), float)
    if not (np.isfinite(final) and np.isfinite(moved).all()):
        raise ArithmeticError(f"energy {final} kcal/mol")
    return Minimised(positions=moved, initial_energy=initial, final_energy=final, platform=name)


def _energy(context: Any) -> float:
    from openmm import unit

    return float(context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilocalories_per_mole))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
