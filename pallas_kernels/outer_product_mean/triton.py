"""The outer product mean on NVIDIA GPUs: its Triton kernel launched from JAX."""

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning

_CHANNELS = (8, 16, 32)
_PAIR_CHANNELS = (16, 32, 64, 128)


def unfit(left, right, weights, bias, norm, **static):
    """Why the kernel cannot take these arrays, or None."""
    del bias, static
    c, e, z = weights.shape
    if left.dtype != right.dtype or left.dtype not in (jnp.float32, jnp.bfloat16) or norm.dtype != jnp.float32:
        return f"operands are {left.dtype}, {right.dtype}, {norm.dtype}; accepted are two float32 or bfloat16, float32"
    if c not in _CHANNELS or e not in _CHANNELS or z not in _PAIR_CHANNELS:
        accepted = f"{', '.join(map(str, _CHANNELS))}, and {', '.join(map(str, _PAIR_CHANNELS))} of pairs"
        return f"there are {c} and {e} channels, {z} of pairs; accepted are {accepted}"
    return "there is nothing to multiply" if 0 in (*left.shape, *right.shape) else None


def outer_product_mean(left, right, weights, bias, norm):
    """See `api.outer_product_mean`.

    Channels of the left come in groups, outermost, so that a tile of every group is contiguous.
    """
    from pallas_kernels.outer_product_mean import kernels

    (rows, num_i, c), num_j, (_, e, z) = left.shape, right.shape[1], weights.shape
    config = tuning.config("outer_product_mean_forward", dtype=str(left.dtype))
    blocks = dict(config.blocks)
    group = min(blocks.pop("GROUP_C"), c)
    grouped = left.reshape(rows, num_i, c // group, group).transpose(2, 0, 1, 3)
    request = launch.Launch(
        kernel=kernels.forward,
        arrays=(grouped, right, weights.astype(left.dtype), bias, norm),
        sizes=(rows, num_i, num_j),
        outputs=[jax.ShapeDtypeStruct((num_i, num_j, z), left.dtype)],
        grid=(-(-num_j // blocks["BLOCK_J"]), -(-num_i // blocks["BLOCK_I"])),
        config=launch.Config(blocks=blocks, num_warps=config.num_warps, num_stages=config.num_stages),
        constants={"C": group, "E": e, "Z": z, "GROUPS": c // group},
    )
    return launch.run(request)[0]
