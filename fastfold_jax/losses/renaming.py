"""Which of the two namings of symmetric side chain atoms a known structure should have, seen from the prediction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fastfold_jax.constants import ATOM14_AMBIGUOUS, ATOM14_SWAP
from fastfold_jax.losses.reduce import squared_distance
from parallel.axis import Axis


def swap_names(aatype: Int[Array, "n"], atoms: Float[Array, "n 14 *d"]) -> Float[Array, "n 14 *d"]:
    """Positions or masks of atom14 with symmetric atoms exchanged, such as OD1 and OD2 of aspartate."""
    partner = jnp.asarray(ATOM14_SWAP)[aatype]
    return jnp.take_along_axis(atoms, partner.reshape(partner.shape + (1,) * (atoms.ndim - 2)), axis=1)


def distances(rows: Float[Array, "i p 3"], columns: Float[Array, "j q 3"]) -> Float[Array, "i p j q"]:
    """Distances of all atoms of all pairs of residues, with a gradient where they are 0."""
    return jnp.sqrt(squared_distance(rows[:, :, None, None], columns[None, None]) + 1e-10)


def swap_is_better(
    aatype: Int[Array, "n"],
    positions: Float[Array, "n 14 3"],
    mask: Float[Array, "n 14"],
    predicted: Float[Array, "n 14 3"],
    axis: Axis = Axis(),
) -> Bool[Array, "n"]:
    """Residues whose other naming fits the prediction better (AlphaFold 2 supplement, Algorithm 26, lines 1 to 5).

    What is compared are the distances of ambiguous atoms to all unambiguous ones. Carries no gradient.

    Args:
      positions, mask: Known atoms, atom14, Å.
      predicted: Predicted atoms, whole on every device; the work is split over `axis`.
    """
    ambiguous = jnp.asarray(ATOM14_AMBIGUOUS)[aatype]
    predicted = jax.lax.stop_gradient(predicted)
    swapped = swap_names(aatype, positions)
    of_device = lambda x: axis.shard(x, 0)  # noqa: E731
    pairs = of_device(mask * ambiguous)[:, :, None, None] * (mask * (1.0 - ambiguous))[None, None]
    predicted_distances = distances(of_device(predicted), predicted)

    def cost(rows: Array) -> Array:
        # The unambiguous atoms of the columns lie where they do under either naming.
        difference = predicted_distances - distances(of_device(rows), positions)
        return jnp.sum(pairs * jnp.sqrt(jnp.square(difference) + 1e-10), axis=(1, 2, 3))

    return axis.gather(cost(swapped) < cost(positions), 0)
