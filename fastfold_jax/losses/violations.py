"""Broken stereochemistry: peptide bonds and their angles, clashes between residues, bonds and clashes within them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fastfold_jax.constants import RESTYPE_INDEX
from fastfold_jax.constants.atoms import atom14_radii
from fastfold_jax.constants.stereochemistry import (
    CA_CA_DISTANCE,
    PEPTIDE_C_N_CA_COS,
    PEPTIDE_C_N_DEVIATION,
    PEPTIDE_C_N_LENGTH,
    PEPTIDE_CA_C_N_COS,
    atom14_distance_bounds,
)
from fastfold_jax.losses.reduce import mask_mean, squared_distance
from fastfold_jax.losses.renaming import distances
from parallel.axis import Axis

_N, _CA, _C = 0, 1, 2  # columns of atom14
_SG = 5  # of cysteine
_EPSILON = 1e-6
EXTREME_CA_CA_EXCESS = 1.5  # Å beyond the ideal distance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class BondViolations:
    """Violations of the bond between each residue and the next of its chain.

    Attributes:
      c_n, ca_c_n, c_n_ca: [] mean excess over the tolerance: of the C-N length (Å) and of the cosines of its angles.
      per_residue: [N], 1 where one of the three is beyond the tolerance on either side.
    """

    c_n: Any
    ca_c_n: Any
    c_n_ca: Any
    per_residue: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomViolations:
    """Violations of atoms that are too near to, or too far from, others.

    Attributes:
      loss: [N, 14] Å, the sum of each atom's excesses.
      per_atom: [N, 14], 1 where there is one.
    """

    loss: Any
    per_atom: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Violations:
    """All violations of a structure (AlphaFold 2 supplement, 1.9.11).

    Attributes:
      bonds: Violations of peptide bonds.
      clashes: Violations between atoms of different residues.
      within: Violations of the distances within residues.
    """

    bonds: BondViolations
    clashes: AtomViolations
    within: AtomViolations

    def loss(self, exists: Float[Array, "n 14"]) -> Float[Array, ""]:
        """Sum of the bonds' mean excesses and of the atoms' mean excess (supplement, equation 47)."""
        atoms = jnp.sum(self.clashes.loss + self.within.loss) / (_EPSILON + jnp.sum(exists))
        return self.bonds.c_n + self.bonds.ca_c_n + self.bonds.c_n_ca + atoms

    def per_residue(self) -> Float[Array, "n"]:
        """1 where a residue has any violation."""
        clashes, within = jnp.max(self.clashes.per_atom, axis=-1), jnp.max(self.within.per_atom, axis=-1)
        return jnp.maximum(jnp.maximum(self.bonds.per_residue, clashes), within)


def find_violations(
    positions: Float[Array, "n 14 3"],
    exists: Float[Array, "n 14"],
    residues: tuple[Int[Array, "n"], Int[Array, "n"], Int[Array, "n"]],
    *,
    tolerance: float,
    clash_tolerance: float,
    axis: Axis = Axis(),
) -> Violations:
    """Looks for violations in predicted positions.

    Args:
      positions: Å, whole on every device; the search for clashes is split over `axis`.
      exists: 1 where a residue has the atom.
      residues: Type (0..20), number and chain of each residue.
      tolerance: Standard deviations.
      clash_tolerance: Å that atoms may overlap.
    """
    return Violations(
        bonds=bond_violations(positions, exists, residues, tolerance),
        clashes=clashes(positions, exists, residues, clash_tolerance, axis),
        within=within_residues(positions, exists, residues[0], tolerance, clash_tolerance),
    )


def _follows(residue_index: Int[Array, "n"], asym_id: Int[Array, "n"]) -> Float[Array, "n-1"]:
    """1 where the next residue of the array is the next of the chain.

    DISCREPANCY: DeepMind's code does not look at chains, and ties one chain's last residue to the next chain's first
    where their numbers happen to follow on each other.
    """
    next_number = residue_index[1:] - residue_index[:-1] == 1
    return (next_number & (asym_id[1:] == asym_id[:-1])).astype(jnp.float32)


def _unit(vector: Float[Array, "n 3"]) -> tuple[Float[Array, "n 3"], Float[Array, "n"]]:
    length = jnp.sqrt(_EPSILON + jnp.sum(jnp.square(vector), axis=-1))
    return vector / length[:, None], length


def bond_violations(
    positions: Float[Array, "n 14 3"],
    exists: Float[Array, "n 14"],
    residues: tuple[Int[Array, "n"], Int[Array, "n"], Int[Array, "n"]],
    tolerance: float,
) -> BondViolations:
    """Peptide bonds and their angles outside `tolerance` standard deviations (supplement, equations 44 and 45).

    DISCREPANCY: DeepMind's code of 2021 to 2023, and ColabFold's copy of it, give the angle at C the standard deviation
    of the bond's length; this is the angle's own, as in DeepMind's present code.
    """
    aatype, residue_index, asym_id = residues
    follows = _follows(residue_index, asym_id)
    ca, c = positions[:-1, _CA], positions[:-1, _C]
    next_n, next_ca = positions[1:, _N], positions[1:, _CA]
    has_c_n = exists[:-1, _C] * exists[1:, _N] * follows

    to_ca, _ = _unit(ca - c)
    to_n, length = _unit(next_n - c)
    n_to_ca, _ = _unit(next_ca - next_n)
    proline = (aatype[1:] == RESTYPE_INDEX["P"]).astype(jnp.int32)
    # What is measured minus what is expected, the standard deviation, and where all atoms exist.
    length_deviation = jnp.asarray(PEPTIDE_C_N_DEVIATION)[proline]
    ca_c_n = jnp.sum(to_ca * to_n, axis=-1) - PEPTIDE_CA_C_N_COS[0]
    c_n_ca = jnp.sum(-to_n * n_to_ca, axis=-1) - PEPTIDE_C_N_CA_COS[0]
    measured: dict[str, tuple[Array, Array | float, Array]] = {
        "c_n": (length - jnp.asarray(PEPTIDE_C_N_LENGTH)[proline], length_deviation, has_c_n),
        "ca_c_n": (ca_c_n, PEPTIDE_CA_C_N_COS[1], has_c_n * exists[:-1, _CA]),
        "c_n_ca": (c_n_ca, PEPTIDE_C_N_CA_COS[1], has_c_n * exists[1:, _CA]),
    }
    losses, broken = {}, jnp.zeros_like(follows)
    for name, (difference, deviation, mask) in measured.items():
        error = jnp.sqrt(_EPSILON + jnp.square(difference))
        excess = jax.nn.relu(error - tolerance * deviation)
        losses[name] = mask_mean(excess, mask, _EPSILON)
        broken = jnp.maximum(broken, mask * (error > tolerance * deviation))
    return BondViolations(**losses, per_residue=jnp.maximum(jnp.pad(broken, (0, 1)), jnp.pad(broken, (1, 0))))


def clashes(
    positions: Float[Array, "n 14 3"],
    exists: Float[Array, "n 14"],
    residues: tuple[Int[Array, "n"], Int[Array, "n"], Int[Array, "n"]],
    tolerance: float,
    axis: Axis = Axis(),
) -> AtomViolations:
    """Atoms of different residues nearer than their radii allow (supplement, equation 46).

    DISCREPANCY: the pair of sixth columns of atom14 is left out whatever the residues, where a disulfide bridge's
    sulfurs alone are meant; and residues of equal number in different chains are not compared. So it is in
    DeepMind's code.
    """
    aatype, residue_index, asym_id = residues
    radii = exists * jnp.asarray(atom14_radii())[aatype]

    @jax.checkpoint
    def search(positions: Array) -> tuple[Array, Array, Array, Array]:
        of_device = lambda x: axis.shard(x, 0)  # noqa: E731
        counts = _may_clash(residue_index, asym_id, axis)
        counts = counts * of_device(exists)[:, :, None, None] * exists[None, None]
        distance = distances(of_device(positions), positions)
        least = of_device(radii)[:, :, None, None] + radii[None, None] - tolerance
        excess = counts * jax.nn.relu(least - distance)
        clash = counts * (distance < least)
        return (
            jnp.sum(excess, axis=(2, 3)),
            jnp.sum(excess, axis=(0, 1)),
            jnp.max(clash, axis=(2, 3)),
            jnp.max(clash, axis=(0, 1)),
        )

    # Each pair is looked at once, by the device that has the residue of the lower number.
    loss_rows, loss_columns, rows, columns = search(positions)
    # `max` over devices, as a sum of zeros and ones that is above 0.
    columns = (axis.psum(jax.lax.stop_gradient(columns)) > 0).astype(jnp.float32)
    return AtomViolations(
        loss=axis.gather(loss_rows, 0) + axis.psum(loss_columns),
        per_atom=jnp.maximum(axis.gather(jax.lax.stop_gradient(rows), 0), columns),
    )


def _may_clash(residue_index: Int[Array, "n"], asym_id: Int[Array, "n"], axis: Axis) -> Float[Array, "i 14 n 14"]:
    """1 for pairs of atoms in different residues, in one order, that no bond ties."""
    number, chain = axis.shard(residue_index, 0)[:, None], axis.shard(asym_id, 0)[:, None]
    ordered = number < residue_index[None]
    neighbours = (number + 1 == residue_index[None]) & (chain == asym_id[None])
    c_n, s_s = np.zeros((14, 14), bool), np.zeros((14, 14), bool)
    c_n[_C, _N] = True
    s_s[_SG, _SG] = True
    bonded = neighbours[:, None, :, None] & c_n[None, :, None, :]
    return (ordered[:, None, :, None] & ~bonded & ~s_s[None, :, None, :]).astype(jnp.float32)


@functools.cache
def _bounds(tolerance: float, clash_tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    lower, upper, _ = atom14_distance_bounds(overlap_tolerance=clash_tolerance, deviations=tolerance)
    return lower, upper


def within_residues(
    positions: Float[Array, "n 14 3"],
    exists: Float[Array, "n 14"],
    aatype: Int[Array, "n"],
    tolerance: float,
    clash_tolerance: float,
) -> AtomViolations:
    """Atoms of one residue outside the distances that bonds, angles and radii allow (supplement, equation 46)."""
    lower, upper = (jnp.asarray(bound)[aatype] for bound in _bounds(tolerance, clash_tolerance))
    pairs = (1.0 - jnp.eye(14)) * exists[:, :, None] * exists[:, None, :]
    distance = jnp.sqrt(1e-10 + squared_distance(positions[:, :, None], positions[:, None]))
    excess = pairs * (jax.nn.relu(lower - distance) + jax.nn.relu(distance - upper))
    outside = pairs * ((distance < lower) | (distance > upper))
    return AtomViolations(loss=jnp.sum(excess, axis=1) + jnp.sum(excess, axis=2), per_atom=jnp.max(outside, axis=1))


def violation_metrics(
    violations: Violations,
    positions: Float[Array, "n 14 3"],
    exists: Float[Array, "n 14"],
    residues: tuple[Int[Array, "n"], Int[Array, "n"], Int[Array, "n"]],
    seq_mask: Float[Array, "n"],
) -> dict[str, Float[Array, ""]]:
    """Fractions of residues with each kind of violation, and of neighbours whose Cα atoms are far apart."""
    _, residue_index, asym_id = residues
    ca = positions[:, _CA]
    distance = jnp.sqrt(_EPSILON + jnp.sum(jnp.square(ca[1:] - ca[:-1]), axis=-1))
    far = (distance - CA_CA_DISTANCE > EXTREME_CA_CA_EXCESS).astype(jnp.float32)
    neighbours = exists[:-1, _CA] * exists[1:, _CA] * _follows(residue_index, asym_id)
    return {
        "extreme_ca_ca": mask_mean(far, neighbours),
        "bonds": mask_mean(violations.bonds.per_residue, seq_mask),
        "clashes": mask_mean(jnp.max(violations.clashes.per_atom, axis=-1), seq_mask),
        "within": mask_mean(jnp.max(violations.within.per_atom, axis=-1), seq_mask),
        "any": mask_mean(violations.per_residue(), seq_mask),
    }
