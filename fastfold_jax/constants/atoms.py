"""Atoms: the 37-column and 14-column layouts, chi angles, ambiguous names. The unknown type (row 20) has no atoms."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fastfold_jax.constants.read import frozen, words
from fastfold_jax.constants.residues import RESTYPE_3, residues

ATOM37_NAMES: tuple[str, ...] = words(
    "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 NH1 NH2 OH "
    "CZ CZ2 CZ3 NZ OXT"
)
"""Names of the columns of atom37, one column an atom name whatever the residue."""

ATOM37_INDEX: Mapping[str, int] = MappingProxyType({name: i for i, name in enumerate(ATOM37_NAMES)})

ATOM14_NAMES: tuple[tuple[str, ...], ...] = (
    *(residue.atoms + ("",) * (14 - len(residue.atoms)) for residue in residues()),
    ("",) * 14,
)
"""[21][14] names of the columns of atom14 for each residue type; "" where a column is unused."""

VAN_DER_WAALS_RADII: Mapping[str, float] = MappingProxyType({"C": 1.7, "N": 1.55, "O": 1.52, "S": 1.8})
"""Radii by element, Å."""


def _atom14_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    atom14_mask = np.zeros((21, 14), np.float32)
    atom37_mask = np.zeros((21, 37), np.float32)
    atom14_to_atom37 = np.zeros((21, 14), np.int32)
    atom37_to_atom14 = np.zeros((21, 37), np.int32)
    for restype, residue in enumerate(residues()):
        columns = [ATOM37_INDEX[name] for name in residue.atoms]
        atom14_mask[restype, : len(columns)] = 1
        atom37_mask[restype, columns] = 1
        atom14_to_atom37[restype, : len(columns)] = columns
        atom37_to_atom14[restype, columns] = np.arange(len(columns))
    return frozen(atom14_mask), frozen(atom37_mask), frozen(atom14_to_atom37), frozen(atom37_to_atom14)


ATOM14_MASK, ATOM37_MASK, ATOM14_TO_ATOM37, ATOM37_TO_ATOM14 = _atom14_tables()
"""[21, 14] and [21, 37] float32: which columns a residue type uses (OXT belongs to none); [21, 14] and [21, 37] int32:
the column of the other layout that holds the same atom, 0 where there is none."""


def _chi_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    atoms = np.zeros((21, 4, 4), np.int32)
    mask = np.zeros((21, 4), np.float32)
    pi_periodic = np.zeros((21, 4), np.float32)
    for restype, residue in enumerate(residues()):
        for chi, names in enumerate(residue.chi_atoms):
            atoms[restype, chi] = [ATOM37_INDEX[name] for name in names]
            mask[restype, chi] = 1
        if residue.pi_periodic_chi is not None:
            pi_periodic[restype, residue.pi_periodic_chi] = 1
    return frozen(atoms), frozen(mask), frozen(pi_periodic)


CHI_ATOM37, CHI_MASK, CHI_PI_PERIODIC = _chi_tables()
"""[21, 4, 4] int32 atom37 columns of the four atoms of chi 1-4 (0 where there is no such angle); [21, 4] float32: which
angles exist; [21, 4] float32: which are the same after half a turn."""


def _ambiguity_tables() -> tuple[np.ndarray, np.ndarray]:
    partner = np.tile(np.arange(14, dtype=np.int32), (21, 1))
    for restype, residue in enumerate(residues()):
        for first, second in residue.swaps:
            i, j = residue.atoms.index(first), residue.atoms.index(second)
            partner[restype, [i, j]] = j, i
    return frozen(partner), frozen((partner != np.arange(14)).astype(np.float32))


ATOM14_SWAP, ATOM14_AMBIGUOUS = _ambiguity_tables()
"""[21, 14] int32: the atom14 column that holds an atom's symmetry partner (its own where the name is certain);
[21, 14] float32: 1 where the name is arbitrary."""

ATOM37_ELEMENTS: tuple[str, ...] = tuple(name[0] for name in ATOM37_NAMES)
"""Element of each column of atom37."""


def atom14_radii() -> np.ndarray:
    """[21, 14] float32 van der Waals radius of each atom14 column, Å; 0 where a column is unused."""
    return np.array([[VAN_DER_WAALS_RADII.get(name[:1], 0.0) for name in names] for names in ATOM14_NAMES], np.float32)


assert len(ATOM37_NAMES) == 37 and len(ATOM14_NAMES) == len(RESTYPE_3) == 21
