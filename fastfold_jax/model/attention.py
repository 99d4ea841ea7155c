"""Gated self-attention over the rows of a two-dimensional representation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import pallas_kernels
from fastfold_jax.config.execution import Execution
from fastfold_jax.model.layers import LayerNorm, parameter
from pallas_kernels import matmul, product

_MEAN_EPSILON = 1e-10


class Attention(nnx.Module):
    """Multi-head self-attention with an output gate (AlphaFold 2 supplement, Algorithm 7).

    Attributes:
      query_w, key_w, value_w, gating_w: [channels, heads, head_dim].
      gating_b: [heads, head_dim].
      output_w: [heads, head_dim, channels].
      output_b: [channels].
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int, execution: Execution):
        shape = (channels, num_heads, head_dim)
        self.query_w = parameter(shape, "glorot", fan_in=channels)
        self.key_w = parameter(shape, "glorot", fan_in=channels)
        self.value_w = parameter(shape, "glorot", fan_in=channels)
        self.gating_w = parameter(shape, "zeros", fan_in=channels)
        self.gating_b = parameter((num_heads, head_dim), 1.0)
        self.output_w = parameter((num_heads, head_dim, channels), "zeros", fan_in=num_heads * head_dim)
        self.output_b = parameter(channels, 0.0)
        self.kernels = execution.kernels

    def __call__(
        self,
        x: Float[Array, "*batch n c"],
        mask: Float[Array, "*#batch n"],
        bias: Float[Array, "h n n"] | None = None,
    ) -> Float[Array, "*batch n c"]:
        """Each row attends to itself.

        Args:
          x: Layer-normed input.
          mask: 0 for positions that are not attended to.
          bias: Scores added for every row.
        """
        with jax.named_scope("op.attention"):
            return pallas_kernels.self_attention(
                x,
                mask,
                bias,
                (self.query_w[...], self.key_w[...], self.value_w[...], self.gating_w[...]),
                self.gating_b[...],
                (self.output_w[...], self.output_b[...]),
                implementation=self.kernels,
            )


class GlobalAttention(nnx.Module):
    """Attention with one mean query a row, linear in the row's length (supplement, Algorithm 19, lines 2 to 7).

    Attributes:
      query_w, gating_w: [channels, heads, head_dim].
      key_w, value_w: [channels, head_dim].
      gating_b: [heads, head_dim].
      output_w: [heads, head_dim, channels].
      output_b: [channels].
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int):
        self.query_w = parameter((channels, num_heads, head_dim), "glorot", fan_in=channels)
        self.key_w = parameter((channels, head_dim), "glorot", fan_in=channels)
        self.value_w = parameter((channels, head_dim), "glorot", fan_in=channels)
        self.gating_w = parameter((channels, num_heads, head_dim), "zeros", fan_in=channels)
        self.gating_b = parameter((num_heads, head_dim), 1.0)
        self.output_w = parameter((num_heads, head_dim, channels), "zeros", fan_in=num_heads * head_dim)
        self.output_b = parameter(channels, 0.0)

    def __call__(self, x: Float[Array, "b n c"], mask: Float[Array, "b n"]) -> Float[Array, "b n c"]:
        """Every position of a row gets the same weighted sum, gated by its own features."""
        head_dim = self.key_w[...].shape[-1]
        weight = mask.astype(jnp.float32)[..., None]
        mean = jnp.sum(x * weight, axis=1) / (jnp.sum(weight, axis=1) + _MEAN_EPSILON)
        query = matmul(mean.astype(x.dtype), self.query_w[...]) * head_dim**-0.5
        keys_values = matmul(x, jnp.concatenate([self.key_w[...], self.value_w[...]], axis=1)).astype(x.dtype)
        keys, values = jnp.split(keys_values, 2, axis=-1)
        logits = product("bhd,bkd->bhk", query.astype(x.dtype), keys)
        weights = pallas_kernels.softmax(logits[:, :, None, :], mask=mask, implementation="xla")[:, :, 0]
        average = product("bhk,bkd->bhd", weights.astype(x.dtype), values)
        gate = jax.nn.sigmoid(matmul(x, self.gating_w[...]) + self.gating_b[...])
        weighted = (gate * average[:, None]).astype(x.dtype)
        output_w = self.output_w[...].reshape(-1, x.shape[-1])
        weighted = weighted.reshape(*x.shape[:-1], output_w.shape[0])
        return (matmul(weighted, output_w) + self.output_b[...]).astype(x.dtype)


def pair_bias(norm: LayerNorm, weights: Float[Array, "z h"], z: Float[Array, "i j z"]) -> Float[Array, "h i j"]:
    """Attention bias from pairs, heads first (supplement, Algorithm 7, line 3), in the type of `z`."""
    # Not `zh,ijz->hij`: with both operands transposed XLA's CPU backend has no bf16 product.
    return jnp.moveaxis(matmul(norm(z), weights), -1, 0).astype(z.dtype)
