"""How far a structure's geometry departs from what chemistry allows, as AlphaFold counts it."""

import dataclasses
import functools

import gemmi
import numpy as np
from jaxtyping import Bool, Float, Int

from fastfold_jax.constants.atoms import ATOM14_NAMES, atom14_radii
from fastfold_jax.constants.residues import RESTYPE_3_INDEX, UNKNOWN
from fastfold_jax.constants.stereochemistry import (
    CA_CA_DISTANCE,
    PEPTIDE_C_N_CA_COS,
    PEPTIDE_C_N_DEVIATION,
    PEPTIDE_C_N_LENGTH,
    PEPTIDE_CA_C_N_COS,
    atom14_distance_bounds,
)

_DEVIATIONS = 12.0  # standard deviations that a bond or an angle may be off
_OVERLAP = 1.5  # Å that two atoms may be closer than their radii
_FAR_CA = 1.5  # Å beyond the usual distance
_N, _CA, _C = range(3)  # columns of atom14
_PROLINE = RESTYPE_3_INDEX["PRO"]
_SULFUR = RESTYPE_3_INDEX["CYS"], ATOM14_NAMES[RESTYPE_3_INDEX["CYS"]].index("SG")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Atoms:
    """The n residues of a structure's first model, with the heavy atoms that their types have.

    Attributes:
      aatype: [n] residue types.
      positions: [n, 14, 3] Å.
      mask: [n, 14], whether an atom is known.
      chain: [n], which chain.
      number: [n] residue numbers.
    """

    aatype: Int[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 14 3"]
    mask: Bool[np.ndarray, "n 14"]
    chain: Int[np.ndarray, " n"]
    number: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, structure: gemmi.Structure) -> "Atoms":
        """Reads them from a structure."""
        residues = [(index, residue) for index, chain in enumerate(structure[0]) for residue in chain]
        aatype = np.array([RESTYPE_3_INDEX.get(residue.name, UNKNOWN) for _, residue in residues], int)
        positions = np.zeros((len(residues), 14, 3))
        mask = np.zeros((len(residues), 14), bool)
        for row, (_, residue) in enumerate(residues):
            names = ATOM14_NAMES[aatype[row]]
            for atom in residue:
                if atom.name in names:
                    column = names.index(atom.name)
                    positions[row, column] = atom.pos.tolist()
                    mask[row, column] = True
        chain = np.array([index for index, _ in residues], int)
        return cls(
            aatype=aatype,
            positions=positions,
            mask=mask,
            chain=chain,
            number=np.array([residue.seqid.num for _, residue in residues], int),
        )


@functools.cache
def _bounds() -> tuple[np.ndarray, np.ndarray]:
    lower, upper, _ = atom14_distance_bounds(_OVERLAP, _DEVIATIONS)
    return lower, upper


def find_violations(structure: gemmi.Structure) -> Violations:
    """Violations in a structure's first model.

    DISCREPANCY: AlphaFold compares residues by their numbers alone, and so overlooks clashes between residues of equal
    number in different chains; here all residues are compared. For one chain the results are equal.
    """
    return violations_of(Atoms.of(structure))


def violations_of(atoms: Atoms) -> Violations:
    """Violations among the atoms of a structure."""
    bonds, far = _bond_violations(atoms)
    clashes = np.any(_clashes(atoms), axis=1)
    within = _within(atoms)
    return Violations(
        per_residue=bonds | clashes | within,
        bonds=_share(bonds),
        clashes=_share(clashes),
        within=_share(within),
        extreme_ca_ca=_share(far),
    )


def _share(mask: Bool[np.ndarray, " n"]) -> float:
    return float(np.mean(mask)) if np.size(mask) else 0.0


def _bond_violations(atoms: Atoms) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " b"]]:
    """Residues beside a bad peptide bond; and for each two neighbours, whether their Cα are much too far apart.

    DISCREPANCY: for the angle at C the released code takes the deviation of the bond's length in place of the
    cosine's, as do we.
    """
    neighbours = (atoms.chain[1:] == atoms.chain[:-1]) & (np.diff(atoms.number) == 1)
    at, known = atoms.positions, atoms.mask
    ca, c, n, next_ca = at[:-1, _CA], at[:-1, _C], at[1:, _N], at[1:, _CA]
    has_ca, has_c, has_n, has_next_ca = known[:-1, _CA], known[:-1, _C], known[1:, _N], known[1:, _CA]
    proline = (atoms.aatype[1:] == _PROLINE).astype(int)
    length_off = np.abs(np.linalg.norm(n - c, axis=-1) - np.take(PEPTIDE_C_N_LENGTH, proline))
    bad = has_c & has_n & (length_off > _DEVIATIONS * np.take(PEPTIDE_C_N_DEVIATION, proline))
    at_c_off = np.abs(_cosine(ca - c, n - c) - PEPTIDE_CA_C_N_COS[0])
    bad |= has_ca & has_c & has_n & (at_c_off > _DEVIATIONS * PEPTIDE_C_N_DEVIATION[0])
    at_n_off = np.abs(_cosine(c - n, next_ca - n) - PEPTIDE_C_N_CA_COS[0])
    bad |= has_c & has_n & has_next_ca & (at_n_off > _DEVIATIONS * PEPTIDE_C_N_CA_COS[1])
    bad &= neighbours
    far = np.linalg.norm(next_ca - ca, axis=-1) - CA_CA_DISTANCE > _FAR_CA
    pairs = neighbours & has_ca & has_next_ca
    return np.pad(bad, (0, 1)) | np.pad(bad, (1, 0)), far[pairs]


def _cosine(first: Float[np.ndarray, "n 3"], second: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(axis=-1) / np.maximum(lengths, 1e-6)


def _clashes(atoms: Atoms) -> Bool[np.ndarray, "n 14"]:
    """Atoms that are too close to one of another residue; only near ones are compared, whatever the size."""
    from scipy.spatial import cKDTree

    row, column = np.nonzero(atoms.mask)
    clashing = np.zeros(atoms.mask.shape, bool)
    if not len(row):
        return clashing
    positions = atoms.positions[row, column]
    radius = atom14_radii()[atoms.aatype[row], column].astype(float)
    pairs = cKDTree(positions).query_pairs(2 * radius.max() - _OVERLAP, output_type="ndarray")
    i, j = pairs[:, 0], pairs[:, 1]  # i < j, and atoms are in the order of residues
    apart = row[i] != row[j]
    bonded = (atoms.chain[row[i]] == atoms.chain[row[j]]) & (atoms.number[row[j]] - atoms.number[row[i]] == 1)
    bonded &= (column[i] == _C) & (column[j] == _N)
    sulfur = (atoms.aatype[row] == _SULFUR[0]) & (column == _SULFUR[1])
    distance = np.linalg.norm(positions[i] - positions[j], axis=-1)
    close = apart & ~bonded & ~(sulfur[i] & sulfur[j]) & (distance < radius[i] + radius[j] - _OVERLAP)
    for side in (i[close], j[close]):
        clashing[row[side], column[side]] = True
    return clashing


def _within(atoms: Atoms) -> Bool[np.ndarray, " n"]:
    """Residues whose atoms are too close to or too far from each other."""
    lower, upper = (bound[atoms.aatype] for bound in _bounds())
    distance = np.linalg.norm(atoms.positions[:, :, None] - atoms.positions[:, None], axis=-1)
    pairs = atoms.mask[:, :, None] & atoms.mask[:, None] & ~np.eye(14, dtype=bool)
    return np.any(pairs & ((distance < lower) | (distance > upper)), axis=(1, 2))
