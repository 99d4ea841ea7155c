"""Attention on NVIDIA GPUs: its Triton kernels launched from JAX."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels import launch, tuning
from pallas_kernels.attention.reference import output_gradients, pick

HEAD_DIMS = (8, 16, 32, 64)
_MIN_BLOCK = 16  # of a matrix product on tensor cores


def unfit(q, k, v, bias=None, mask=None, gate=None, **static):
    """Why the kernels cannot take these arrays, or None."""
    del bias, mask, static
    types = {x.dtype for x in (q, k, v) if x is not None}
    if len(types) > 1 or types - {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}:
        return f"q, k and v are {', '.join(sorted(map(str, types)))}; they must all be float32 or all bfloat16"
    if q.shape[-1] not in HEAD_DIMS:
        return f"the head dimension is {q.shape[-1]}; accepted are {', '.join(map(str, HEAD_DIMS))}"
    if 0 in q.shape or 0 in k.shape:
        return "there is nothing to attend to"
    return None


def unfit_backward(arrays, saved, cotangent, **static):
    """Why the backward kernels cannot take these arrays, or None."""
    del saved, cotangent, static
    return unfit(*arrays)


def attention(q, k, v, bias, mask, gate):
    """See `api.attention`."""
    return _forward(q, k, v, bias, mask, gate, save=False)[0]


def attention_saving(q, k, v, bias, mask, gate):
    """See `reference.attention_saving`."""
    out, peak, total = _forward(q, k, v, bias, mask, gate, save=True)
    statistics = (*q.shape[:-3], q.shape[-2], q.shape[-3])
    return out, peak.reshape(statistics), total.reshape(statistics)


def attention_backward(arrays, saved, cotangent, *, wanted):
    """Gradients: of queries, of keys and values, and of the bias by three kernels.

    The bias gradient of a tile is summed over the batch by one program in order, from scores made once more.
    """
    return _backward(arrays, saved, cotangent, wanted, atomic=False)


def attention_backward_atomic(arrays, saved, cotangent, *, wanted):
    """The same, but the queries' programs add up the bias gradient as they go, in no certain order."""
    return _backward(arrays, saved, cotangent, wanted, atomic=True)


def _backward(arrays, saved, cotangent, wanted, *, atomic):
    q, k, v, bias, mask, gate = arrays
    out, peak, total = saved
    before, delta, gate_grad = output_gradients(out, total, gate, cotangent)
    inputs = _Inputs(q, k, v, bias, mask)
    common = [*inputs.arrays, before, peak, delta]
    wants_bias = bias is not None and 3 in wanted
    q_grad, bias_grad = inputs.run(
        "backward_queries",
        common,
        [_like(q), _like(bias, jnp.float32) if wants_bias and atomic else _like(peak, shape=(1,))],
        over="q",
        ATOMIC=wants_bias and atomic,
        EVEN_K=True,
        zeroed=(1,) if wants_bias and atomic else (),
    )
    k_grad, v_grad = inputs.run("backward_keys", common, [_like(k), _like(v)], over="k", EVEN_Q=True)
    if wants_bias and not atomic:
        (bias_grad,) = inputs.run("backward_bias", common, [_like(bias)], over="qk")
    grads = (q_grad, k_grad, v_grad, None if bias is None else bias_grad, mask, gate_grad)
    if bias is not None and not wants_bias:
        grads = (*grads[:3], bias, *grads[4:])  # not wanted: stands in for the gradient that was not made
    return pick(arrays, grads, wanted)


def _forward(q, k, v, bias, mask, gate, *, save):
    inputs = _Inputs(q, k, v, bias, mask)
    statistics = _like(q, jnp.float32, (*q.shape[:-3], q.shape[-2], q.shape[-3]) if save else (1,))
    arrays = [*inputs.arrays, q if gate is None else gate.reshape(q.shape)]
    constants = {"HAS_GATE": gate is not None, "SAVE": save, "EVEN_K": True}
    return inputs.run("forward", arrays, [_like(q), statistics, statistics], over="q", **constants)


class _Inputs:
    """Queries, keys, values, bias and mask as the kernels take them, and what is the same in every launch."""

    def __init__(self, q, k, v, bias, mask):
        batch, (self.heads, self.dim) = q.shape[:-3], q.shape[-2:]
        self.batch, self.q_len, self.k_len = math.prod(batch), q.shape[-3], k.shape[-3]
        self.dtype = q.dtype
        shared = mask is None or math.prod(mask.shape[:-1]) == 1
        if not shared:
            mask = jnp.broadcast_to(mask, (*batch, self.k_len))
        # A parameter that is not used still needs an array.
        self.arrays = [q, k, v, q if bias is None else bias, q if mask is None else mask]
        units = {"Q_UNIT": math.gcd(self.q_len, _MIN_BLOCK), "K_UNIT": math.gcd(self.k_len, _MIN_BLOCK)}
        self.sizes = self.q_len // units["Q_UNIT"], self.k_len // units["K_UNIT"], self.batch
        self.constants = {
            "SCALE": self.dim**-0.5,
            "HEADS": self.heads,
            "DIM": self.dim,
            "BLOCK_D": max(self.dim, _MIN_BLOCK),
            "HAS_BIAS": bias is not None,
            "HAS_MASK": mask is not None,
            "MASK_SHARED": shared,
            **units,
        }

    def run(self, name, arrays, outputs, *, over, zeroed=(), **constants):
        """Launches a kernel.

        Args:
          over: What programs are laid out over: queries, keys or both.
          constants: Besides those of every launch; EVEN_Q, EVEN_K are set to what the blocks make them.
        """
        from pallas_kernels.attention import kernels

        config = tuning.config(f"attention_{name}", dtype=str(self.dtype), dim=self.dim)
        q_blocks, k_blocks = (-(-n // config.blocks[b]) for n, b in ((self.q_len, "BLOCK_Q"), (self.k_len, "BLOCK_K")))
        batch, heads = self.batch, self.heads
        grid = {"q": (batch * q_blocks, heads), "k": (batch * k_blocks, heads), "qk": (k_blocks, q_blocks, heads)}
        even = {
            "EVEN_Q": self.q_len % config.blocks["BLOCK_Q"] == 0,
            "EVEN_K": self.k_len % config.blocks["BLOCK_K"] == 0,
        }
        every = {**self.constants, **constants}
        if name == "backward_bias":
            del every["HAS_BIAS"]
        return launch.run(
            launch.Launch(
                kernel=getattr(kernels, name),
                arrays=arrays,
                sizes=self.sizes,
                outputs=outputs,
                grid=grid[over],
                config=config,
                constants={key: even.get(key, value) for key, value in every.items()},
                zeroed=zeroed,
            )
        )


def _like(x, dtype=None, shape=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, dtype or x.dtype)
