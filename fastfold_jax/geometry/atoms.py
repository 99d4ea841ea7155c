"""Conversions between the atom14 and atom37 layouts, and the pseudo-beta atom."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.constants.atoms import (
    ATOM14_MASK,
    ATOM14_TO_ATOM37,
    ATOM37_INDEX,
    ATOM37_MASK,
    ATOM37_TO_ATOM14,
)
from fastfold_jax.constants.residues import RESTYPE_INDEX


def atom_masks(
    aatype: Int[Array, "*n"], seq_mask: Float[Array, "*n"]
) -> tuple[Float[Array, "*n 14"], Float[Array, "*n 37"]]:
    """Which columns of atom14 and of atom37 the residues use; none where `seq_mask` is 0."""
    return (
        jnp.asarray(ATOM14_MASK)[aatype] * seq_mask[..., None],
        jnp.asarray(ATOM37_MASK)[aatype] * seq_mask[..., None],
    )


def atom14_to_atom37(positions: Float[Array, "*n 14 3"], aatype: Int[Array, "*n"]) -> Float[Array, "*n 37 3"]:
    """The same atoms in the atom37 layout; zeros where a residue has no such atom."""
    column = jnp.asarray(ATOM37_TO_ATOM14)[aatype]
    return jnp.take_along_axis(positions, column[..., None], axis=-2) * jnp.asarray(ATOM37_MASK)[aatype][..., None]


def atom37_to_atom14(
    positions: Float[Array, "*n 37 3"], mask: Float[Array, "*n 37"], aatype: Int[Array, "*n"]
) -> tuple[Float[Array, "*n 14 3"], Float[Array, "*n 14"]]:
    """The same atoms, and which of them are known, in the atom14 layout; zeros where they are not."""
    column = jnp.asarray(ATOM14_TO_ATOM37)[aatype]
    known = jnp.take_along_axis(mask, column, axis=-1) * jnp.asarray(ATOM14_MASK)[aatype]
    return jnp.take_along_axis(positions, column[..., None], axis=-2) * known[..., None], known


def pseudo_beta(
    aatype: Int[Array, "*n"], positions: Float[Array, "*n 37 3"], mask: Float[Array, "*n 37"]
) -> tuple[Float[Array, "*n 3"], Float[Array, "*n"]]:
    """CB of each residue, CA of glycine, and whether it is known (AlphaFold 2 supplement, section 1.9.8)."""
    glycine = aatype == RESTYPE_INDEX["G"]
    alpha, beta = ATOM37_INDEX["CA"], ATOM37_INDEX["CB"]
    position = jnp.where(glycine[..., None], positions[..., alpha, :], positions[..., beta, :])
    return position, jnp.where(glycine, mask[..., alpha], mask[..., beta])
