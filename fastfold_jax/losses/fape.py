"""Frame aligned point error, of backbones and of all atoms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fastfold_jax.config.losses import FapeTerm
from fastfold_jax.geometry.rigid import Rigid
from fastfold_jax.losses.reduce import squared_distance
from parallel.axis import Axis

EPSILON = 1e-4


def local_coordinates(frames: Rigid, points: Float[Array, "*n p 3"]) -> Float[Array, "*n f p 3"]:
    """Every point in every frame.

    Component by component: an array of [f, p, 3, 3] products is never formed, and the last axis is taken apart again
    by whoever reads it.

    Args:
      frames: [*n, f].
    """
    offset = [points[..., None, :, d] - frames.translation[..., :, None, d] for d in range(3)]
    rotation = frames.rotation[..., None, :, :]
    along = [[rotation[..., d, axis] * offset[d] for d in range(3)] for axis in range(3)]
    return jnp.stack([x + y + z for x, y, z in along], axis=-1)


def point_errors(
    predicted: tuple[Rigid, Float[Array, "*n p 3"]], target: tuple[Rigid, Float[Array, "p 3"]]
) -> Float[Array, "*n f p"]:
    """Distance (Å) between each predicted point and its target, each seen from its own frames."""
    return jnp.sqrt(squared_distance(local_coordinates(*predicted), local_coordinates(*target)) + EPSILON)


def clamp_errors(
    errors: Float[Array, "*n f p"], term: FapeTerm, use_clamped: Float[Array, ""] | float = 1.0
) -> Float[Array, "*n f p"]:
    """Errors in the term's unit, cut at its clamp; with `use_clamped` 0 they are not cut (supplement, 1.11.5)."""
    clamped = jnp.clip(errors, 0.0, term.clamp)
    return (clamped * use_clamped + errors * (1.0 - use_clamped)) / term.unit


def masked_mean(
    errors: Float[Array, "*n f p"],
    mask: Float[Array, "f p"],
    axis: Axis,
) -> Float[Array, "*n"]:
    """Mean over the pairs of frame and point that exist, where `axis` splits the frames."""
    total = axis.psum(jnp.sum(errors * mask, axis=(-2, -1)))
    return total / (EPSILON + axis.psum(jnp.sum(mask)))


def backbone_fape(
    trajectory: Rigid,
    target: Rigid,
    mask: Float[Array, "n"],
    pair_mask: Float[Array, "i n"],
    term: FapeTerm,
    use_clamped: Float[Array, ""] | float = 1.0,
    axis: Axis = Axis(),
) -> Float[Array, "layers"]:
    """FAPE of Cα atoms in backbone frames, of each layer (AlphaFold 2 supplement, Algorithms 20 and 28).

    Args:
      trajectory: [layers, n] predicted frames, Å.
      target: [n] true frames, Å.
      mask: 1 where the true frame is known.
      pair_mask: Which pairs count, such as those within a chain; rows of this device where `axis` splits them.
      term: Clamp and unit.
      use_clamped: 1 to clamp errors, 0 not to.
    """
    rows = jax.tree.map(lambda x: axis.shard(x, 1), trajectory)
    target_rows = jax.tree.map(lambda x: axis.shard(x, 0), target)
    errors = point_errors((rows, trajectory.translation), (target_rows, target.translation))
    pairs = axis.shard(mask, 0)[:, None] * mask[None, :] * pair_mask
    return masked_mean(clamp_errors(errors, term, use_clamped), pairs, axis)


def all_atom_fape(
    predicted: tuple[Rigid, Float[Array, "n 14 3"]],
    target: tuple[Rigid, Float[Array, "n 14 3"]],
    masks: tuple[Float[Array, "n 8"], Float[Array, "n 14"]],
    term: FapeTerm,
    axis: Axis = Axis(),
) -> Float[Array, ""]:
    """FAPE of all atoms in the frames of all rigid groups (supplement, Algorithm 20, line 28).

    Args:
      predicted, target: [n, 8] frames and atom14 positions, Å; the target's under the better of its two namings.
      masks: Which frames and atoms are known.
      term: Clamp and unit.
    """

    @jax.checkpoint
    def mean(predicted, target, masks):
        def flat(side):
            frames = jax.tree.map(lambda x: axis.shard(x, 0), side[0])
            return Rigid(
                rotation=frames.rotation.reshape(-1, 3, 3), translation=frames.translation.reshape(-1, 3)
            ), side[1].reshape(-1, 3)

        pairs = axis.shard(masks[0], 0).reshape(-1)[:, None] * masks[1].reshape(-1)[None, :]
        return masked_mean(clamp_errors(point_errors(flat(predicted), flat(target)), term), pairs, axis)

    return mean(predicted, target, masks)
