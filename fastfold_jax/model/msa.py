"""Attention along the rows and columns of the MSA."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fastfold_jax.config.execution import Execution
from fastfold_jax.model.attention import Attention, GlobalAttention, pair_bias
from fastfold_jax.model.layers import LayerNorm, parameter


class MSARowAttentionWithPairBias(nnx.Module):
    """Row-wise gated self-attention with pair bias (AlphaFold 2 supplement, Algorithm 7), MSA sharded over rows.

    Attributes:
      feat_2d_weights: [c_z, heads].
    """

    def __init__(self, c_m: int, c_z: int, num_heads: int, execution: Execution):
        self.query_norm = LayerNorm(c_m, kernels=execution.kernels)
        self.feat_2d_norm = LayerNorm(c_z, kernels=execution.kernels)
        self.feat_2d_weights = parameter((c_z, num_heads), "linear", fan_in=c_z)
        self.attention = Attention(c_m, num_heads, c_m // num_heads, execution)
        self.axis = execution.axis

    def bias(self, z: Float[Array, "a b z"], *, sharded: int) -> Float[Array, "h n n"]:
        """The bias all rows share, whole, from this device's part of the pairs.

        Args:
          sharded: Which dimension of the pairs is split over devices, 0 (rows) or 1 (columns).
        """
        return self.axis.gather(pair_bias(self.feat_2d_norm, self.feat_2d_weights[...], z), 1 + sharded)

    def __call__(
        self, m: Float[Array, "s n c"], bias: Float[Array, "h n n"], mask: Float[Array, "s n"]
    ) -> Float[Array, "s n c"]:
        """The update of this device's rows."""
        return self.attention(self.query_norm(m), mask, bias)


class MSAColumnAttention(nnx.Module):
    """Column-wise gated self-attention (Algorithm 8), MSA sharded over residues."""

    def __init__(self, c_m: int, num_heads: int, execution: Execution):
        self.query_norm = LayerNorm(c_m, kernels=execution.kernels)
        self.attention = Attention(c_m, num_heads, c_m // num_heads, execution)

    def __call__(self, m: Float[Array, "s i c"], mask: Float[Array, "s i"]) -> Float[Array, "s i c"]:
        """The update of this device's columns."""
        columns = jnp.swapaxes(self.query_norm(m), 0, 1)
        return jnp.swapaxes(self.attention(columns, mask.T), 0, 1)


class MSAColumnGlobalAttention(nnx.Module):
    """Column-wise global attention of the extra MSA stack (Algorithm 19), MSA sharded over residues."""

    def __init__(self, c_m: int, num_heads: int, execution: Execution):
        # Its product is linear in the rows: attention itself needs no kernel.
        self.query_norm = LayerNorm(c_m, kernels=execution.kernels)
        self.attention = GlobalAttention(c_m, num_heads, c_m // num_heads)

    def __call__(self, m: Float[Array, "s i c"], mask: Float[Array, "s i"]) -> Float[Array, "s i c"]:
        """The update of this device's columns."""
        columns = jnp.swapaxes(self.query_norm(m), 0, 1)
        return jnp.swapaxes(self.attention(columns, mask.T), 0, 1)
