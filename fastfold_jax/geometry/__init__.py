"""Coordinates in JAX: rigid transformations, torsion angles, frames, atom layouts. Float32, elementwise."""

from fastfold_jax.geometry.atoms import atom14_to_atom37, atom37_to_atom14, atom_masks, pseudo_beta
from fastfold_jax.geometry.frames import atom14_positions, frames_from_atom37, frames_from_torsions
from fastfold_jax.geometry.rigid import Rigid, rotation_from_quaternion
from fastfold_jax.geometry.torsions import Torsions, torsions_from_atom37

__all__ = [
    "Rigid",
    "Torsions",
    "atom14_positions",
    "atom14_to_atom37",
    "atom37_to_atom14",
    "atom_masks",
    "frames_from_atom37",
    "frames_from_torsions",
    "pseudo_beta",
    "rotation_from_quaternion",
    "torsions_from_atom37",
]
