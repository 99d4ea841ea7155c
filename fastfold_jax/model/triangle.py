"""Triangle multiplication and triangle attention: how pairs inform each other through third residues."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.attention import Attention, pair_bias
from fastfold_jax.model.layers import LayerNorm, Linear, parameter
from pallas_kernels.triangle_multiplication.api import Direction
from parallel.layout import cut, cut_local, join

Slabs = Sequence[Float[Array, "_ n c"]]


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

    def __call__(self, rows: Slabs, seq_mask: Float[Array, " n"]) -> Slabs:
        """The updates of this device's rows, slab by slab.

        The contraction is independent for each channel, so rows are exchanged for channels and back: no device holds
        a whole operand, and nothing is summed over devices.
        """
        masks = cut_local(self.axis.shard(seq_mask, 0), 0, len(rows))
        operands = [
            self.axis.all_to_all(self.operands(z, mask[:, None] * seq_mask), split=1, concat=2)
            for z, mask in zip(rows, masks, strict=True)
        ]
        products = [self.axis.all_to_all(product, split=1, concat=0) for product in self.products(operands)]
        return [self.update(product, z) for product, z in zip(products, rows, strict=True)]

    def operands(self, z: Float[Array, "i n c"], mask: Float[Array, "i n"]) -> Float[Array, "2 c i n"]:
        """Both operands, for some rows."""
        return pallas_kernels.triangle_producer(
            z,
            mask,
            _affine(self.left_norm_input),
            _affine(self.projection),
            _affine(self.gate),
            implementation=self.kernels,
        )

    def products(self, operands: Sequence[Float[Array, "2 c a n"]]) -> list[Float[Array, "c a n"]]:
        """For this device's channels, slabs of the product's rows from slabs of the operands' rows."""
        if self.direction == "outgoing":
            right = join([slab[1] for slab in operands], 1, self.axis)
            pairs = [(slab[0], right) for slab in operands]
        else:
            left, right = join(operands, 2, self.axis)
            pairs = [(left, slab) for slab in cut(right, 2, len(operands), self.axis)]
        return [
            pallas_kernels.triangle_contraction(pair, self.direction, implementation=self.kernels) for pair in pairs
        ]

    def update(self, product: Float[Array, "c i n"], z: Float[Array, "i n c"]) -> Float[Array, "i n c"]:
        """What is added to some rows."""
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
        self.query_norm = LayerNorm(channels)
        self.feat_2d_weights = parameter((channels, num_heads), "linear", fan_in=channels)
        self.attention = Attention(channels, num_heads, head_dim, execution)
        self.ending = orientation == "per_column"
        self.axis = execution.axis

    def bias(self, rows: Slabs) -> Float[Array, "h n n"]:
        """The bias every row (or column) shares, whole, from this device's rows of pairs."""
        slabs = [self.axis.gather(pair_bias(self.query_norm, self.feat_2d_weights[...], z), 1) for z in rows]
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
