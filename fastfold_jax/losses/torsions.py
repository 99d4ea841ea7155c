"""Losses of side chain torsion angles."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from fastfold_jax.geometry.torsions import Torsions
from fastfold_jax.losses.reduce import mask_mean

_FIRST_CHI = 3  # omega, phi and psi follow from the backbone


def chi_loss(sin_cos: Float[Array, "layers n 7 2"], targets: Torsions) -> Float[Array, ""]:
    """Squared distance of chi angles on the unit circle, the mean over layers (supplement, Algorithm 27, lines 1 to 3).

    Each angle is compared with the nearer of its true values under the two namings of symmetric atoms.

    Args:
      sin_cos: Predicted unit vectors.
    """

    def squared_error(true: Array) -> Array:
        return jnp.sum(jnp.square(true[:, _FIRST_CHI:] - sin_cos[:, :, _FIRST_CHI:]), axis=-1)

    error = jnp.minimum(squared_error(targets.sin_cos), squared_error(targets.alternative_sin_cos))
    return mask_mean(error, jnp.broadcast_to(targets.mask[:, _FIRST_CHI:], error.shape))


def angle_norm_loss(unnormalized: Float[Array, "layers n 7 2"], seq_mask: Float[Array, "n"]) -> Float[Array, ""]:
    """How far predicted angles are from unit length before normalisation (Algorithm 27, line 4)."""
    norm = jnp.sqrt(jnp.sum(jnp.square(unnormalized), axis=-1) + 1e-6)
    return mask_mean(jnp.abs(norm - 1.0), jnp.broadcast_to(seq_mask[:, None], norm.shape))
