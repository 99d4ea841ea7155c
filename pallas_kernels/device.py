"""Functions that Triton kernels of several operations share."""

import inspect
from collections.abc import Callable

import triton
import triton.language as tl


def jit(function: Callable) -> triton.JITFunction:
    """Makes a kernel of the function itself: what checks types in tests wraps functions, and is not for a compiler."""
    return triton.jit(inspect.unwrap(function))


@jit
def sigmoid(x):
    """1 / (1 + exp(-x)), of float32."""
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@jit
def statistics(x, AXIS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, EPSILON: tl.constexpr):
    """x less its mean along an axis that has BLOCK_C elements, of which CHANNELS exist; 1 / standard deviation."""
    channels = tl.expand_dims(tl.arange(0, BLOCK_C), 1 - AXIS)
    centred = x - tl.expand_dims(tl.sum(x, AXIS), AXIS) / CHANNELS
    if BLOCK_C != CHANNELS:
        centred = tl.where(channels < CHANNELS, centred, 0.0)
    variance = tl.sum(centred * centred, AXIS) / CHANNELS
    return centred, tl.expand_dims(1.0 / tl.sqrt_rn(variance + EPSILON), AXIS)


@jit
def normed_rows(
    x_ptr, scale_ptr, offset_ptr, rows, num_rows,
    CHANNELS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """Loads rows of x [rows, channels], a power of two of them, and layer-norms each, in the type of x."""
    channels = tl.arange(0, CHANNELS)
    pointers = x_ptr + rows.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
    x = tl.load(pointers, mask=(rows < num_rows)[:, None], other=0.0).to(tl.float32)
    centred, inverse = statistics(x, 1, CHANNELS, CHANNELS, EPSILON)
    scale, offset = tl.load(scale_ptr + channels), tl.load(offset_ptr + channels)
    return (centred * inverse * scale[None, :] + offset[None, :]).to(x_ptr.dtype.element_ty)
