"""The transition on NVIDIA GPUs: its Triton kernel launched from JAX."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning
from pallas_kernels.layer_norm.reference import EPSILON

CHANNELS = (32, 64, 128, 256)


def unfit(x, norm, first, second, **static):
    """Why the kernel cannot take these arrays, or None."""
    del norm, static
    channels, hidden = first[0].shape
    if x.dtype not in (jnp.float32, jnp.bfloat16):
        return f"rows are {x.dtype}; accepted are float32 and bfloat16"
    if channels not in CHANNELS or second[0].shape[-1] != channels:
        return f"{channels} channels become {second[0].shape[-1]}; accepted are {', '.join(map(str, CHANNELS))}, kept"
    if hidden % 128:
        return f"the hidden layer has {hidden} channels; accepted are multiples of 128"
    return "there are no rows" if x.size == 0 else None


def transition(x, norm, first, second):
    """See `api.transition`."""
    from pallas_kernels.transition import kernels

    channels, hidden = first[0].shape
    rows = math.prod(x.shape[:-1])
    config = tuning.config("transition_forward", dtype=str(x.dtype), channels=channels)
    weights = (first[0].astype(x.dtype), first[1], second[0].astype(x.dtype), second[1])
    request = launch.Launch(
        kernel=kernels.forward,
        arrays=(x, *norm, *weights),
        sizes=(rows,),
        outputs=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        grid=(-(-rows // config.blocks["BLOCK_R"]),),
        config=config,
        constants={"CHANNELS": channels, "HIDDEN": hidden, "EPSILON": EPSILON},
    )
    return launch.run(request)[0]
