"""The transition's Triton kernel."""

import triton.language as tl

from pallas_kernels.device import jit, normed_rows


@jit
def forward(
    x_ptr, scale_ptr, offset_ptr, first_ptr, first_bias_ptr, second_ptr, second_bias_ptr, num_rows, out_ptr,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    """Some rows, whose hidden layer is made and used a few channels at a time. Grid: (blocks of rows,)."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = normed_rows(x_ptr, scale_ptr, offset_ptr, rows, num_rows, CHANNELS, EPSILON)
    channels = tl.arange(0, CHANNELS)
    out = tl.full([BLOCK_R, CHANNELS], 0.0, tl.float32)
    for start in tl.range(0, HIDDEN, BLOCK_F):
        hidden_channels = start + tl.arange(0, BLOCK_F)
        first = tl.load(first_ptr + channels[:, None] * HIDDEN + hidden_channels[None, :])
        hidden = tl.dot(x, first, input_precision="ieee") + tl.load(first_bias_ptr + hidden_channels)[None, :]
        second = tl.load(second_ptr + hidden_channels[:, None] * CHANNELS + channels[None, :])
        out = tl.dot(tl.maximum(hidden, 0.0).to(x.dtype), second, acc=out, input_precision="ieee")
    out += tl.load(second_bias_ptr + channels)[None, :]
    places = rows.to(tl.int64)[:, None] * CHANNELS + channels[None, :]
    exist = (rows < num_rows)[:, None]
    # From cache: held since the layer norm, it would take the registers of the products.
    out += tl.load(x_ptr + places, mask=exist, other=0.0).to(tl.float32)
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=exist)
