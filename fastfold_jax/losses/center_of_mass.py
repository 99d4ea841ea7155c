"""Chains that lie nearer to each other than in the true complex."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.losses.reduce import squared_distance

TOLERANCE = 4.0  # Å
SCALE = 20.0  # Å


def center_of_mass_loss(
    predicted_ca: Float[Array, "n 3"],
    true_ca: Float[Array, "n 3"],
    mask: Float[Array, "n"],
    asym_id: Int[Array, "n"],
) -> Float[Array, ""]:
    """Mean over pairs of chains of min(|predicted distance| - |true distance| + 4 Å, 0)², in units of (20 Å)².

    Distances are those of the centres of known Cα atoms (Evans et al. 2022, section 2.5, equation 1). 0 for one chain.

    The sum runs over pairs of residues, each weighted so that every chain counts once: no array has an axis of chains.
    """
    same = (asym_id[:, None] == asym_id[None, :]) * mask[None, :]
    size = jnp.sum(same, axis=1)
    weight = mask / jnp.maximum(size, 1.0)  # sums to 1 over each chain's known residues
    to_center = same / jnp.maximum(size, 1.0)[:, None]

    def center_distances(points: Array) -> Array:
        centers = to_center @ points
        return jnp.sqrt(squared_distance(centers[:, None], centers[None]) + 1e-10)

    excess = jnp.minimum(center_distances(predicted_ca) - center_distances(true_ca) + TOLERANCE, 0.0)
    pairs = weight[:, None] * weight[None, :] * (asym_id[:, None] != asym_id[None, :])
    return jnp.sum(pairs * jnp.square(excess / SCALE)) / (jnp.sum(pairs) + 1e-10)
