"""Layer norm's Triton kernels. Rows are [rows, channels], and statistics float32."""

import triton.language as tl

from pallas_kernels.device import jit, statistics


@jit
def forward(
    x_ptr, scale_ptr, offset_ptr, num_rows, out_ptr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, EPSILON: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Some rows. Grid: (blocks of rows,)."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    channels = tl.arange(0, BLOCK_C)
    exist = (rows < num_rows)[:, None] & (channels < CHANNELS)[None, :]
    places = rows.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
    x = tl.load(x_ptr + places, mask=exist, other=0.0).to(tl.float32)
    centred, inverse = statistics(x, 1, CHANNELS, BLOCK_C, EPSILON)
    scale = tl.load(scale_ptr + channels, mask=channels < CHANNELS, other=0.0)
    offset = tl.load(offset_ptr + channels, mask=channels < CHANNELS, other=0.0)
    out = centred * inverse * scale[None, :] + offset[None, :]
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=exist)


@jit
def backward(
    x_ptr, scale_ptr, cotangent_ptr, num_rows, rows_each, x_grad_ptr, scale_grads_ptr, offset_grads_ptr,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, EPSILON: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Gradients of `rows_each` rows, and their part of the gradients of scale and offset. Grid: (parts,)."""
    part = tl.program_id(0)
    channels = tl.arange(0, BLOCK_C)
    scale = tl.load(scale_ptr + channels, mask=channels < CHANNELS, other=0.0)[None, :]
    scale_grad = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float32)
    offset_grad = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float32)
    for start in tl.range(0, rows_each, BLOCK_R):
        rows = part * rows_each + start + tl.arange(0, BLOCK_R)
        exist = (rows < num_rows)[:, None] & (channels < CHANNELS)[None, :]
        places = rows.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
        x = tl.load(x_ptr + places, mask=exist, other=0.0).to(tl.float32)
        cotangent = tl.load(cotangent_ptr + places, mask=exist, other=0.0).to(tl.float32)
        centred, inverse = statistics(x, 1, CHANNELS, BLOCK_C, EPSILON)
        normed, scaled = centred * inverse, cotangent * scale
        mean = tl.sum(scaled, 1)[:, None] / CHANNELS
        along = tl.sum(scaled * normed, 1)[:, None] / CHANNELS
        x_grad = inverse * (scaled - mean - normed * along)
        tl.store(x_grad_ptr + places, x_grad.to(x_grad_ptr.dtype.element_ty), mask=exist)
        scale_grad += cotangent * normed
        offset_grad += cotangent
    places = part * CHANNELS + channels
    tl.store(scale_grads_ptr + places, tl.sum(scale_grad, 0), mask=channels < CHANNELS)
    tl.store(offset_grads_ptr + places, tl.sum(offset_grad, 0), mask=channels < CHANNELS)
