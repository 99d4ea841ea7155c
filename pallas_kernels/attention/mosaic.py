"""Attention on Hopper: its Mosaic GPU kernel launched from JAX. Its backward pass is Triton's."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import tuning
from pallas_kernels.softmax.reference import MASKED_LOGIT

HEAD_DIMS = (16, 32, 64)
_UNIT = 8  # TMA counts distances in 16 bytes
_GROUPS = 65_535  # programs along an axis of the grid


def unfit(q, k, v, bias=None, mask=None, gate=None, **static):
    """Why the kernel cannot take these arrays, or None."""
    del mask, static
    types = {x.dtype for x in (q, k, v, bias, gate) if x is not None}
    if types != {jnp.dtype(jnp.bfloat16)}:
        return f"arrays are {', '.join(sorted(map(str, types)))}; the tensor cores' products it is made of are bfloat16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"the head dimension is {q.shape[-1]}; accepted are {', '.join(map(str, HEAD_DIMS))}"
    if q.size == 0 or k.size == 0:
        return "there is nothing to attend to"
    blocks = tuning.config("attention_mosaic", dim=q.shape[-1]).blocks
    for what, length, least in (("queries", q.shape[-3], blocks["BLOCK_Q"]), ("keys", k.shape[-3], blocks["BLOCK_K"])):
        if length % _UNIT or length < least:
            return f"there are {length} {what}; accepted are multiples of {_UNIT} from {least}"
    batch = math.prod(q.shape[:-3])
    return f"there are {batch} batch elements; accepted are at most {_GROUPS}" if batch > _GROUPS else None


def attention(q, k, v, bias, mask, gate):
    """See `api.attention`."""
    (out,) = _forward(q, k, v, bias, mask, gate, save=False)
    return out


def attention_saving(q, k, v, bias, mask, gate):
    """See `reference.attention_saving`."""
    out, peak, total = _forward(q, k, v, bias, mask, gate, save=True)
    statistics = (*q.shape[:-3], q.shape[-2], q.shape[-3])
    return out, peak.reshape(statistics), total.reshape(statistics)


def _forward(q, k, v, bias, mask, gate, *, save):
    from pallas_kernels import warpgroup
    from pallas_kernels.attention.mosaic_kernels import Arrays, Forward

    whole, batch = q.shape, math.prod(q.shape[:-3])
    ceiling = _ceiling(mask, q.shape[:-3], k.shape[-3])
    q, k, v, gate = (None if x is None else x.reshape(batch, *x.shape[-3:]) for x in (q, k, v, gate))
    q_len, heads, dim = q.shape[1:]
    config = tuning.config("attention_mosaic", dim=dim)
    block_q, block_k = config.blocks["BLOCK_Q"], config.blocks["BLOCK_K"]
    steps, elements = -(-k.shape[1] // block_k), config.num_warps // 4 - 1
    tail = steps * block_k - k.shape[1]  # keys that do not exist
    if tail:
        ceiling = jnp.full((1, k.shape[1]), jnp.inf) if ceiling is None else ceiling
        ceiling = jnp.pad(ceiling, ((0, 0), (0, tail)), constant_values=-jnp.inf)
        # The last dimension of what is loaded in tiles is a multiple of them.
        bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (0, tail)))
    kernel = Forward(
        batch=batch,
        elements=elements,
        dim=dim,
        block_q=block_q,
        block_k=block_k,
        steps=steps,
        stages=min(config.num_stages, steps),
        shared_ceiling=ceiling is not None and len(ceiling) == 1,
        save=save,
    )
    statistic = jax.ShapeDtypeStruct((batch, heads, q_len), jnp.float32)
    arrays = Arrays(q, k, v, bias, ceiling, gate)
    out, *saved = warpgroup.run(
        kernel,
        arrays,
        [jax.ShapeDtypeStruct(q.shape, q.dtype), *(statistic for _ in range(2 if save else 0))],
        grid={"head": heads, "group": -(-batch // elements), "block": -(-q_len // block_q)},
        scratch=kernel.scratch(arrays),
        computing=elements,
    )
    return out.reshape(whole), *saved


def _ceiling(mask, batch, k_len):
    """[1 or b, k]: what no score may exceed."""
    if mask is None:
        return None
    ceiling = jnp.where(mask > 0, jnp.inf, jnp.float32(MASKED_LOGIT))
    if math.prod(mask.shape[:-1]) != 1:
        ceiling = jnp.broadcast_to(ceiling, (*batch, k_len))
    return ceiling.reshape(-1, k_len)
