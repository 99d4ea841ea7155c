"""Layer norm on NVIDIA GPUs: its Triton kernels launched from JAX."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning
from pallas_kernels.layer_norm.reference import EPSILON, pick

# Channels of a row are held at once.
_MOST_CHANNELS = 4096
# Parts that the gradients of scale and offset are summed in: a few programs for every processor of a large GPU.
_PARTS = 1024


def unfit(x, scale, offset, **static):
    """Why the kernels cannot take these arrays, or None."""
    del static
    if x.dtype not in (jnp.float32, jnp.bfloat16) or scale.dtype != jnp.float32 or offset.dtype != jnp.float32:
        return f"rows are {x.dtype} and parameters {scale.dtype}; accepted are float32 or bfloat16 rows and float32"
    if not 0 < x.shape[-1] <= _MOST_CHANNELS:
        return f"rows have {x.shape[-1]} channels; at most {_MOST_CHANNELS} fit"
    return "there are no rows" if x.size == 0 else None


def unfit_backward(arrays, saved, cotangent, **static):
    """Why the backward kernel cannot take these arrays, or None."""
    del saved, cotangent
    return unfit(*arrays, **static)


def layer_norm(x, scale, offset):
    """See `api.layer_norm`."""
    rows, constants, config = _plan("layer_norm_forward", x)
    from pallas_kernels.layer_norm import kernels

    request = launch.Launch(
        kernel=kernels.forward,
        arrays=(x, scale, offset),
        sizes=(rows,),
        outputs=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        grid=(-(-rows // config.blocks["BLOCK_R"]),),
        config=config,
        constants=constants,
    )
    return launch.run(request)[0]


def layer_norm_backward(arrays, saved, cotangent, *, wanted):
    """Gradients; those of scale and offset are summed in parts of rows, then over the parts, always in this order."""
    del saved
    x, scale, _ = arrays
    rows, constants, config = _plan("layer_norm_backward", x)
    from pallas_kernels.layer_norm import kernels

    block = config.blocks["BLOCK_R"]
    rows_each = -(-rows // (_PARTS * block)) * block
    parts = -(-rows // rows_each)
    partial = jax.ShapeDtypeStruct((parts, x.shape[-1]), jnp.float32)
    request = launch.Launch(
        kernel=kernels.backward,
        arrays=(x, scale, cotangent),
        sizes=(rows, rows_each),
        outputs=[jax.ShapeDtypeStruct(x.shape, x.dtype), partial, partial],
        grid=(parts,),
        config=config,
        constants=constants,
    )
    x_grad, scale_grads, offset_grads = launch.run(request)
    return pick((x_grad, scale_grads.sum(0), offset_grads.sum(0)), wanted)


def _plan(name, x):
    """Number of rows, constants and block sizes."""
    channels = x.shape[-1]
    block = max(16, 1 << (channels - 1).bit_length())
    constants = {"CHANNELS": channels, "BLOCK_C": block, "EPSILON": EPSILON}
    return math.prod(x.shape[:-1]), constants, tuning.config(name, dtype=str(x.dtype), channels=block)
