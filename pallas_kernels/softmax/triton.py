"""Softmax on NVIDIA GPUs: its Triton kernel launched from JAX."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning


def unfit(logits, bias=None, mask=None, **static):
    """Why the kernel cannot take these arrays, or None."""
    del static
    types = {x.dtype for x in (logits, bias, mask) if x is not None}
    if types - {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}:
        return f"arrays are {', '.join(sorted(map(str, types)))}; accepted are float32 and bfloat16"
    if logits.shape[-2] > 65535:
        return f"there are {logits.shape[-2]} queries; at most 65535 are a grid"
    return "there are no logits" if 0 in logits.shape else None


def softmax(logits, bias, mask):
    """See `api.softmax`."""
    from pallas_kernels.softmax import kernels

    (heads, q_len, k_len), batch = logits.shape[-3:], logits.shape[:-3]
    shared = mask is None or math.prod(mask.shape[:-1]) == 1
    constants = {
        "HEADS": heads,
        "K_UNIT": math.gcd(k_len, 16),
        "HAS_BIAS": bias is not None,
        "HAS_MASK": mask is not None,
        "MASK_SHARED": shared,
    }
    full_mask = mask if shared else jnp.broadcast_to(mask, (*batch, k_len))
    request = launch.Launch(
        kernel=kernels.forward,
        arrays=(logits, logits if bias is None else bias, logits if full_mask is None else full_mask),
        sizes=(q_len, k_len // constants["K_UNIT"]),
        outputs=[jax.ShapeDtypeStruct(logits.shape, jnp.float32)],
        grid=(math.prod(batch), q_len, heads),
        config=tuning.config("softmax_forward", dtype=str(logits.dtype)),
        constants=constants,
    )
    return launch.run(request)[0]
