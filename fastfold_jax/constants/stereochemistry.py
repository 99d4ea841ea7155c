"""Literature bond lengths and angles with tolerances, and the distance bounds that violations are measured against."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fastfold_jax.constants.atoms import ATOM14_NAMES, atom14_radii
from fastfold_jax.constants.read import frozen, read_rows
from fastfold_jax.constants.residues import RESTYPE_3

CA_CA_DISTANCE: float = 3.80209737096
"""Distance of consecutive CA atoms across a trans peptide bond, Å."""

PEPTIDE_C_N_LENGTH: tuple[float, float] = (1.329, 1.341)
PEPTIDE_C_N_DEVIATION: tuple[float, float] = (0.014, 0.016)
"""Peptide bond C-N, mean and standard deviation in Å: before any residue, and before proline."""

PEPTIDE_CA_C_N_COS: tuple[float, float] = (-0.4473, 0.0311)
PEPTIDE_C_N_CA_COS: tuple[float, float] = (-0.5203, 0.0353)
"""Cosines of the angles at a peptide bond: mean, standard deviation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bond:
    """Two atoms at a known distance: bonded, or (virtual) the two ends of a bond angle. Å."""

    atoms: tuple[str, str]
    length: float
    deviation: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Angle:
    """Three atoms, the middle one at the apex. Radians."""

    atoms: tuple[str, str, str]
    angle: float
    deviation: float


@functools.cache
def bonds() -> Mapping[str, tuple[Bond, ...]]:
    """Bonds of each residue by three-letter code."""
    found: dict[str, list[Bond]] = {code: [] for code in RESTYPE_3}
    for code, atoms, mean, deviation in read_rows("stereochemistry"):
        names = atoms.split("-")
        if len(names) == 2:
            found[code].append(Bond(atoms=(names[0], names[1]), length=float(mean), deviation=float(deviation)))
    return MappingProxyType({code: tuple(entries) for code, entries in found.items()})


@functools.cache
def angles() -> Mapping[str, tuple[Angle, ...]]:
    """Bond angles of each residue by three-letter code."""
    found: dict[str, list[Angle]] = {code: [] for code in RESTYPE_3}
    for code, atoms, mean, deviation in read_rows("stereochemistry"):
        names = atoms.split("-")
        if len(names) == 3:
            angle, tolerance = math.radians(float(mean)), math.radians(float(deviation))
            found[code].append(Angle(atoms=(names[0], names[1], names[2]), angle=angle, deviation=tolerance))
    return MappingProxyType({code: tuple(entries) for code, entries in found.items()})


def virtual_bond(angle: Angle, first: Bond, second: Bond) -> Bond:
    """The distance that an angle between two bonds fixes (law of cosines), its error propagated as if uncorrelated."""
    a, b, cos = first.length, second.length, math.cos(angle.angle)
    length = math.sqrt(a * a + b * b - 2 * a * b * cos)
    by_first, by_second = (a - b * cos) / length, (b - a * cos) / length
    by_angle = a * b * math.sin(angle.angle) / length
    deviation = math.hypot(by_angle * angle.deviation, by_first * first.deviation, by_second * second.deviation)
    return Bond(atoms=(angle.atoms[0], angle.atoms[2]), length=length, deviation=deviation)


@functools.cache
def virtual_bonds() -> Mapping[str, tuple[Bond, ...]]:
    """The distance across each bond angle of each residue, by three-letter code."""
    found = {}
    for code, of_residue in angles().items():
        by_atoms = {frozenset(bond.atoms): bond for bond in bonds()[code]}
        found[code] = tuple(
            virtual_bond(angle, by_atoms[frozenset(angle.atoms[:2])], by_atoms[frozenset(angle.atoms[1:])])
            for angle in of_residue
        )
    return MappingProxyType(found)


def atom14_distance_bounds(
    overlap_tolerance: float = 1.5, deviations: float = 15.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances that two atoms of one residue may have.

    Pairs that a bond or an angle ties may differ by `deviations` standard deviations from the literature value; others
    may not overlap by more than `overlap_tolerance` Å (AlphaFold 2 supplement, section 1.9.11).

    Returns:
        lower bound, upper bound, standard deviation (0 where nothing ties the pair): [21, 14, 14] float32 each, Å.
    """
    radii = atom14_radii()
    exists = (radii[:, :, None] > 0) & (radii[:, None, :] > 0) & ~np.eye(14, dtype=bool)
    lower = np.where(exists, radii[:, :, None] + radii[:, None, :] - overlap_tolerance, 0.0).astype(np.float32)
    upper = np.where(exists, 1e10, 0.0).astype(np.float32)
    deviation = np.zeros_like(lower)
    for restype, code in enumerate(RESTYPE_3):
        for bond in bonds()[code] + virtual_bonds()[code]:
            i, j = (ATOM14_NAMES[restype].index(name) for name in bond.atoms)
            slack = deviations * bond.deviation
            for pair in ((restype, i, j), (restype, j, i)):
                lower[pair], upper[pair], deviation[pair] = bond.length - slack, bond.length + slack, bond.deviation
    return frozen(lower), frozen(upper), frozen(deviation)
