"""Triangle multiplication and triangle attention: how pairs inform each other through third residues."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.attention import Attention, pair_bias
from fastfold_jax.model.layers import LayerNorm, Linear, parameter
from pallas_kernels.triangle_multiplication.api import Direction
from parallel.layout import cut, join, join_parts, parts
from parallel.pipeline import Step

Slabs = Sequence[Float[Array, "_ n c"]]
Operands = tuple[Float[Array, "c i n"], Float[Array, "c i n"]]
# What `Axis.exchange` brought: by device where there are several.
Exchanged = tuple[Float[Array, "*devices c i n"], Float[Array, "*devices c i n"]]


class TriangleMultiplication(nnx.Module):
    """Triangle multiplication (AlphaFold 2 supplement, Algorithms 11 and 12), pairs sharded over rows.

    The parameters are those of multimer v3, where one map makes both operands; older files store them split.

    Attributes:
      direction: `outgoing` or `incoming` edges.
    """

    def __init__(self, channels: int, direction: Direction, execution: Execution):
        self.left_norm_input = LayerNorm(channels)
        self.projection = Linear(channels, 2 * channels)
        self.gate = Linear(channels, 2 * channels, init="zeros", bias_init=1.0)
        self.center_norm = LayerNorm(channels)
        self.output_projection = Linear(channels, channels, init="zeros")
        self.gating_linear = Linear(channels, channels, init="zeros", bias_init=1.0)
        self.direction = direction
        self.axis = execution.axis
        self.kernels = execution.kernels

    def __call__(self, z: Float[Array, "i n c"], seq_mask: Float[Array, " n"]) -> Float[Array, "i n c"]:
        """The update of this device's rows, at once.

        The contraction is independent for each channel, so rows are exchanged for channels and back: no device holds
        a whole operand, and nothing is summed over devices.
        """
        mask = self.axis.shard(seq_mask, 0)[:, None] * seq_mask
        _, operands = self.exchange_rows(0, (z, self.operands(z, mask)))
        return self.update(self.exchange_channels(0, self.contraction([operands])(0, z))[1], z)

    def operands(self, z: Float[Array, "i n c"], mask: Float[Array, "i n"]) -> Operands:
        """Both operands, for some rows."""
        with jax.named_scope("op.triangle_producer"):
            return pallas_kernels.triangle_producer(
                z,
                mask,
                _affine(self.left_norm_input),
                _affine(self.projection),
                _affine(self.gate),
                implementation=self.kernels,
            )

    def exchange_rows(self, slab: int, value: Any) -> Any:
        """A slab's operands for all channels become those of as many rows of every device for this one's channels."""
        z, operands = value
        left, right = (self.axis.exchange(parts(x, 0, self.axis)) for x in operands)
        return z, (left, right)

    def contraction(self, operands: Sequence[Exchanged]) -> Step:
        """The step that makes a slab of the product's rows, from all exchanged operands."""
        left, right = ([slab[side] for slab in operands] for side in range(2))
        if self.direction == "outgoing":
            whole = join_parts(right, 1, self.axis)
            pairs = [(join_parts([slab], 1, self.axis), whole) for slab in left]
        else:
            whole = join_parts(left, 1, self.axis)
            pairs = [(whole, slab) for slab in cut(join_parts(right, 1, self.axis), 2, len(operands), self.axis)]

        def contract(slab: int, z: Any) -> Any:
            product = pallas_kernels.triangle_contraction(pairs[slab], self.direction, implementation=self.kernels)
            return z, parts(product, 1, self.axis)

        return contract

    def exchange_channels(self, slab: int, value: Any) -> Any:
        """A slab of the product goes back to the devices whose rows it is for, with all channels."""
        z, product = value
        return z, join_parts([self.axis.exchange(product)], 0, self.axis)

    def update(self, product: Float[Array, "c i n"], z: Float[Array, "i n c"]) -> Float[Array, "i n c"]:
        """What is added to some rows."""
        with jax.named_scope("op.triangle_consumer"):
            return pallas_kernels.triangle_consumer(
                product,
                z,
                (_affine(self.left_norm_input), _affine(self.center_norm)),
                _affine(self.output_projection),
                _affine(self.gating_linear),
                implementation=self.kernels,
            )


def _affine(layer: LayerNorm | Linear) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Weights and bias, or scale and offset."""
    if isinstance(layer, LayerNorm):
        return layer.scale[...], layer.offset[...]
    return layer.weights[...], layer.bias[...]


class TriangleAttention(nnx.Module):
    """Triangle self-attention around the starting or ending node (supplement, Algorithms 13 and 14).

    Attributes:
      feat_2d_weights: [channels, heads].
      ending: Attend along columns instead of rows.
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int, orientation: str, execution: Execution):
        if orientation not in ("per_row", "per_column"):
            raise ValueError(f"orientation={orientation!r}: accepted are per_row, per_column")
        self.query_norm = LayerNorm(channels, kernels=execution.kernels)
        self.feat_2d_weights = parameter((channels, num_heads), "linear", fan_in=channels)
        self.attention = Attention(channels, num_heads, head_dim, execution)
        self.ending = orientation == "per_column"
        self.axis = execution.axis

    def bias(self, rows: Slabs) -> Float[Array, "h n n"]:
        """The bias every row (or column) shares, whole, from this device's rows of pairs."""
        return self.join_bias([self.axis.gather(self.bias_of_rows(z), 1) for z in rows])

    def bias_of_rows(self, z: Float[Array, "i n c"]) -> Float[Array, "h i n"]:
        """The bias's part that comes of some rows of pairs."""
        return pair_bias(self.query_norm, self.feat_2d_weights[...], z)

    def join_bias(self, slabs: Sequence[Float[Array, "h a n"]]) -> Float[Array, "h n n"]:
        """The bias from its gathered parts."""
        bias = join(slabs, 1, self.axis)
        return jnp.swapaxes(bias, 1, 2) if self.ending else bias

    def __call__(
        self, z: Float[Array, "a b c"], bias: Float[Array, "h n n"], seq_mask: Float[Array, " n"]
    ) -> Float[Array, "a b c"]:
        """The update of `z`.

        Args:
          z: Pairs, sharded over rows around the starting node, over columns around the ending node.
          bias: What `bias` returned.
          seq_mask: Which residues exist. A pair is masked exactly where one of its residues is, and a masked residue's
            own rows are never read, so every row has this same key mask.
        """
        x = self.query_norm(z)
        if self.ending:
            return jnp.swapaxes(self.attention(jnp.swapaxes(x, 0, 1), seq_mask[None], bias), 0, 1)
        return self.attention(x, seq_mask[None], bias)
