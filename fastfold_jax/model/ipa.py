"""Invariant point attention: residues attend to residues by content, by pair representation, and by distance in space.

One module serves monomers and multimers. Parameters are laid out as in DeepMind's multimer files: projections have a
head axis, and the last axis of a point projection holds x of all its points, then all y, then all z. Monomer files hold
the same numbers in another order (h heads, s scalars and p points a head; weights and biases alike):

    q_scalar        [c, h s]          -> q_scalar_projection [c, h, s]
    kv_scalar       [c, h (s + s)]    -> [c, h, s + s], cut into k_scalar_projection and v_scalar_projection
    q_point_local   [c, 3 h p]        -> [c, 3, h, p] -> q_point_projection [c, h, 3 p]
    kv_point_local  [c, 3 h (p + p')] -> [c, 3, h, p + p'], cut into k and v -> [c, h, 3 p] and [c, h, 3 p']

Monomers have biases on the scalar projections, multimers do not. The rows of `output_projection` are in the same order
in both: scalars [h, s], x of the points [h, p], y, z, lengths [h, p], pairs [h, c_z].

The two also round differently without meaning to. A monomer scales each logit term by itself and masks by 1e5 after, a
multimer scales their sum; a monomer carries rotations as unit quaternions, a multimer as matrices: one form serves.
Lengths of points near the origin do differ, so their function is chosen at construction.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MonomerConfig
from fastfold_jax.geometry.rigid import Rigid, dot
from fastfold_jax.model.layers import Linear, parameter

# softplus of this is 1: at first, distances weigh as much in each head.
_UNIT_SOFTPLUS = math.log(math.e - 1.0)

# Scalars, points and pairs share the variance of a logit equally; a pair of unit-variance points contributes 9 / 2.
_TERM = math.sqrt(1.0 / 3.0)
_POINT_VARIANCE = 9.0 / 2.0

# Far below any logit; exp of it is 0, and it stays finite whatever is added.
_MASKED = -1e9

Normalize = Callable[[Float[Array, "i j c"]], Float[Array, "i j c"]]

# What follows would keep arrays larger than the pair representation for the backward pass, one a layer, and is cheap to
# compute again: the normalised pair representation, and differences of all pairs of points. `lax.scan` bars the merging
# of the two computations anyway.
_recompute = functools.partial(jax.checkpoint, prevent_cse=False)


def _smooth_length(points: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    return jnp.sqrt(dot(points, points) + 1e-8)


def _clipped_length(points: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    return jnp.sqrt(jnp.maximum(dot(points, points), 1e-16))


class PointProjection(nnx.Module):
    """Points that each residue puts into its own frame, in global coordinates."""

    def __init__(self, in_dim: int, heads: int, points: int):
        self.point_projection = Linear(in_dim, (heads, 3 * points))

    def __call__(self, single: Float[Array, "i c"], frames: Rigid) -> Float[Array, "i h p 3"]:
        """Points in the unit of the frames' translations."""
        x, y, z = jnp.split(self.point_projection(single), 3, axis=-1)
        return frames[..., None, None].apply(jnp.stack([x, y, z], axis=-1))


class InvariantPointAttention(nnx.Module):
    """AlphaFold 2 supplement, Algorithm 22. Everything is float32."""

    def __init__(self, config: ModelConfig, execution: Execution):
        c_s, c_z, heads, scalars = config.c_s, config.c_z, config.ipa_heads, config.ipa_scalars
        monomer = isinstance(config, MonomerConfig)
        self.q_scalar_projection = Linear(c_s, (heads, scalars), bias=monomer)
        self.k_scalar_projection = Linear(c_s, (heads, scalars), bias=monomer)
        self.v_scalar_projection = Linear(c_s, (heads, scalars), bias=monomer)
        self.q_point_projection = PointProjection(c_s, heads, config.ipa_query_points)
        self.k_point_projection = PointProjection(c_s, heads, config.ipa_query_points)
        self.v_point_projection = PointProjection(c_s, heads, config.ipa_value_points)
        self.trainable_point_weights = parameter(heads, _UNIT_SOFTPLUS)
        self.attention_2d = Linear(c_z, heads)
        self.output_projection = Linear(heads * (scalars + 4 * config.ipa_value_points + c_z), c_s, init="zeros")
        self.scalars = scalars
        self.scalar_scale = _TERM * math.sqrt(1.0 / scalars)
        self.point_scale = _TERM * math.sqrt(1.0 / (config.ipa_query_points * _POINT_VARIANCE))
        self.length = _smooth_length if monomer else _clipped_length
        self.axis = execution.axis

    def logit_bias(
        self, pair: Float[Array, "i j c"], normalize: Normalize, mask: Float[Array, "j"]
    ) -> Float[Array, "h i j"]:
        """What the pair representation and the mask of the keys add to the logits; the same in every layer.

        Queries are not masked: what a masked residue gathers, no other reads.
        """
        project = jax.checkpoint(lambda pair: self.attention_2d(normalize(pair)))
        return jnp.where(mask > 0, jnp.moveaxis(_TERM * project(pair), -1, 0), _MASKED)

    def __call__(
        self,
        single: Float[Array, "i c"],
        pair: Float[Array, "i j d"],
        normalize: Normalize,
        logit_bias: Float[Array, "h i j"],
        frames: Rigid,
    ) -> Float[Array, "i c"]:
        """Attends from this device's residues, i, to all residues, j.

        Args:
          single: Float32.
          pair: Of any type, not normalised.
          normalize: Layer norm of the pair representation, float32.
          logit_bias: What `logit_bias` returned for the same pair representation.
          frames: [i] backbone frames, in the structure module's unit.
        """
        # One collective for keys and values.
        keys_and_values = jnp.concatenate(
            [
                self.k_scalar_projection(single),
                self.v_scalar_projection(single),
                _flatten(self.k_point_projection(single, frames)),
                _flatten(self.v_point_projection(single, frames)),
            ],
            axis=-1,
        )
        q_scalars = self.q_scalar_projection(single) * self.scalar_scale
        q_points = _flatten(self.q_point_projection(single, frames))
        ends = [self.scalars, 2 * self.scalars, 2 * self.scalars + q_points.shape[-1]]
        k_scalars, v_scalars, k_points, v_points = jnp.split(self.axis.gather(keys_and_values, 0), ends, axis=-1)
        logits = jnp.einsum("ihc,jhc->hij", q_scalars, k_scalars) + logit_bias
        logits = logits - 0.5 * _recompute(self.weighted_distances)(q_points, k_points)
        attention = jax.nn.softmax(logits, axis=-1)

        gathered = jnp.einsum("hij,jhc->ihc", attention, jnp.concatenate([v_scalars, v_points], axis=-1))
        scalars, points = gathered[..., : self.scalars], gathered[..., self.scalars :]
        points = frames[..., None, None].invert_apply(points.reshape(*points.shape[:-1], -1, 3))
        pairs = _recompute(lambda attention, pair: jnp.einsum("hij,ijc->ihc", attention, normalize(pair)))(
            attention, pair
        )
        features = [scalars, points[..., 0], points[..., 1], points[..., 2], self.length(points), pairs]
        return self.output_projection(jnp.concatenate([x.reshape(x.shape[0], -1) for x in features], axis=-1))

    def weighted_distances(self, q: Float[Array, "i h c"], k: Float[Array, "j h c"]) -> Float[Array, "h i j"]:
        """Squared distances, summed over a head's points, times the head's weight.

        Differences are taken before they are squared: |q|² - 2 q·k + |k|² would cancel far from the origin.
        """
        weights = self.point_scale * jax.nn.softplus(self.trainable_point_weights[...])
        distances = weights * jnp.sum(jnp.square(q[:, None] - k[None, :]), axis=-1)
        return jnp.moveaxis(distances, -1, 0)


def _flatten(points: Float[Array, "i h p 3"]) -> Float[Array, "i h c"]:
    return points.reshape(*points.shape[:2], -1)
