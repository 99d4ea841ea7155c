"""The small pieces every module is made of: linear maps, layer norm, dropout, and stacks of equal blocks."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

import pallas_kernels
from fastfold_jax.config.execution import Remat
from fastfold_jax.model.initial import Init, Initial
from pallas_kernels import matmul
from parallel.axis import EXCHANGED

Shape = int | tuple[int, ...]


def parameter(shape: Shape, init: Init, *, fan_in: int = 1) -> nnx.Param:
    """A float32 parameter that has no value yet: one is drawn by `initial.draw` or read from a file.

    Args:
      init: How it is drawn.
      fan_in: Inputs summed into one output.
    """
    shape = (shape,) if isinstance(shape, int) else shape
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), initial=Initial(init, fan_in, math.prod(shape)))


class Linear(nnx.Module):
    """Affine map of the last axis, to one axis or several.

    Attributes:
      weights: [in, *out] float32.
      bias: [*out] float32, or None.
    """

    def __init__(
        self, in_dim: int, out_dims: Shape, *, bias: bool = True, init: Init = "linear", bias_init: float = 0.0
    ):
        out_dims = (out_dims,) if isinstance(out_dims, int) else out_dims
        self.weights = parameter((in_dim, *out_dims), init, fan_in=in_dim)
        self.bias: Any = parameter(out_dims, bias_init) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "..."]:
        """[..., in] -> [..., *out] in the type of `x`."""
        out = matmul(x, self.weights[...])
        if self.bias is not None:
            out = out + self.bias[...]
        return out.astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm of the last axis, statistics in float32.

    Attributes:
      scale, offset: [channels] float32.
    """

    def __init__(self, channels: int, *, kernels: str = "auto"):
        self.scale = parameter(channels, 1.0)
        self.offset = parameter(channels, 0.0)
        self.kernels = kernels

    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        """Returns the normalised `x` in its own type."""
        return pallas_kernels.layer_norm(x, self.scale[...], self.offset[...], implementation=self.kernels)


def shared_dropout(
    x: Float[Array, "a b c"], key: PRNGKeyArray | None, rate: float, *, shared: int
) -> Float[Array, "a b c"]:
    """Dropout whose mask is shared along dimension `shared` (AlphaFold 2 supplement, 1.11.6).

    JAX draws each element from the key and its row-major position alone. The mask has a length of 1 along `shared`, so
    padding the other dimension appends elements without changing those before; and the blocks split `shared`, never
    the other dimension, over devices at every place they call this. Neither changes which element is kept.

    Args:
      key: None for no dropout.
    """
    if key is None or rate == 0.0:
        return x
    shape = [1 if dim == shared else size for dim, size in enumerate(x.shape)]
    keep = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def stack(make: Callable[[], nnx.Module], num: int) -> Any:
    """`num` equal blocks as one module whose parameters have a leading layer axis."""
    graphdef, state = nnx.split(make())
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num, *leaf.shape), leaf.dtype), state)
    return nnx.merge(graphdef, stacked)


def scan_blocks(blocks: Any, body: Callable[..., Any], carry: Any, *, key: PRNGKeyArray | None, remat: Remat) -> Any:
    """Runs `carry = body(block, carry, key)` over a stack of blocks, inside one `lax.scan`.

    Args:
      blocks: What `stack` returned.
      body: One block's step; `key` is None without dropout, else this layer's own key.
      remat: Recompute each step's activations in the backward pass, all but what collectives brought, where the axis
        names it. With `offload`, what each step begins with is kept in the host's memory.
    """
    graphdef, state = nnx.split(blocks)
    num = jax.tree.leaves(state)[0].shape[0]
    keys = None if key is None else jax.random.split(key, num)

    def step(carry, layer):
        layer_state, layer_key = layer
        if remat == "offload":
            carry = jax.tree.map(lambda x: checkpoint_name(x, _CARRY), carry)
        return body(nnx.merge(graphdef, layer_state), carry, layer_key), None

    if remat:
        step = jax.checkpoint(step, prevent_cse=False, policy=_kept(remat))
    return lax.scan(step, carry, (state, keys))[0]


_CARRY = "block_carry"


def _kept(remat: Remat) -> Callable[..., Any]:
    """What is not computed again: what collectives brought and, if offloaded, what a block begins with."""
    policies = jax.checkpoint_policies
    if remat != "offload":
        return policies.save_only_these_names(EXCHANGED)
    return policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[EXCHANGED],
        names_which_can_be_offloaded=[_CARRY],
        offload_src="device",
        offload_dst="pinned_host",
    )
