"""Side chains threaded through rings, which no minimisation gets out: the bonds would have to break."""

import numpy as np
from jaxtyping import Bool, Float, Int

from fastfold_jax.inference.relax_openmm import Complete

_RINGS = {
    "PHE": (("CG", "CD1", "CE1", "CZ", "CE2", "CD2"),),
    "TYR": (("CG", "CD1", "CE1", "CZ", "CE2", "CD2"),),
    "TRP": (("CG", "CD1", "NE1", "CE2", "CD2"), ("CD2", "CE2", "CZ2", "CH2", "CZ3", "CE3")),
    "HIS": (("CG", "ND1", "CE1", "NE2", "CD2"),),
    "PRO": (("N", "CA", "CB", "CG", "CD"),),
}
_WITHIN = 1.3  # Å from a ring's middle: somewhat less than to its atoms


def pierced(state: Complete) -> Bool[np.ndarray, " residues"]:
    """Residues that have a ring with a bond of another residue through it, or such a bond."""
    residue = np.array([atom.residue.index for atom in state.topology.atoms()], int)
    involved = np.zeros(residue[-1] + 1 if len(residue) else 0, bool)
    bonds = np.array([(first.index, second.index) for first, second in state.topology.bonds()], int).reshape(-1, 2)
    for ring in _rings(state):
        through = _crossing(state.positions, ring, bonds)
        through = through[residue[through[:, 0]] != residue[ring[0]]]
        if len(through):
            involved[residue[ring[0]]] = True
            involved[residue[through]] = True
    return involved


def _rings(state: Complete) -> list[Int[np.ndarray, " ring"]]:
    """Atoms of each ring."""
    found = []
    for residue in state.topology.residues():
        index = {atom.name: atom.index for atom in residue.atoms()}
        found += [np.array([index[name] for name in names]) for names in _RINGS.get(residue.name, ())]
    return found


def _crossing(
    positions: Float[np.ndarray, "atoms 3"], ring: Int[np.ndarray, " ring"], bonds: Int[np.ndarray, "bonds 2"]
) -> Int[np.ndarray, "crossing 2"]:
    """Bonds between atoms outside a ring that go through its middle."""
    middle = positions[ring].mean(axis=0)
    normal = np.linalg.svd(positions[ring] - middle)[2][2]
    outside = bonds[~np.isin(bonds, ring).any(axis=1)]
    first, second = positions[outside[:, 0]] - middle, positions[outside[:, 1]] - middle
    above, below = first @ normal, second @ normal
    sides = above * below < 0
    share = np.where(sides, above / np.where(sides, above - below, 1), 0)[:, None]
    distance = np.linalg.norm(first + share * (second - first), axis=-1)
    return outside[sides & (distance < _WITHIN)]
