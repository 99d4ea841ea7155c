"""Triangle multiplication's Triton kernels: what comes before the contraction and what comes after it.

Pairs are rows [pairs, channels] of z, and columns [channels, pairs] of the operands and the product.
"""

import triton.language as tl

from pallas_kernels.device import jit, normed_rows, sigmoid, statistics


@jit
def producer(
    z_ptr, mask_ptr, scale_ptr, offset_ptr, weights_ptr, bias_ptr, gate_ptr, gate_bias_ptr, pair_units, a_ptr, b_ptr,
    CHANNELS: tl.constexpr, OUT: tl.constexpr, EPSILON: tl.constexpr, PAIR_UNIT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """OUT channels of each operand, for some pairs, normed once. Grid: (blocks of pairs,)."""
    num_pairs = pair_units * PAIR_UNIT
    pairs = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    x = tl.trans(normed_rows(z_ptr, scale_ptr, offset_ptr, pairs, num_pairs, CHANNELS, EPSILON))
    mask = tl.load(mask_ptr + pairs, mask=pairs < num_pairs, other=0.0).to(tl.float32)
    channels = tl.arange(0, CHANNELS)
    for side in tl.static_range(2):
        out_ptr = a_ptr if side == 0 else b_ptr
        for start in tl.range(0, OUT, BLOCK_O):
            outs = start + tl.arange(0, BLOCK_O)
            both = side * OUT + outs
            places = channels[:, None] * (2 * OUT) + both[None, :]
            values = tl.dot(tl.trans(tl.load(weights_ptr + places)), x, input_precision="ieee")
            gates = tl.dot(tl.trans(tl.load(gate_ptr + places)), x, input_precision="ieee")
            values += tl.load(bias_ptr + both)[:, None]
            gates += tl.load(gate_bias_ptr + both)[:, None]
            values *= sigmoid(gates) * mask[None, :]
            out = out_ptr + tl.cast(num_pairs, tl.int64) * outs[:, None] + pairs[None, :]
            tl.store(out, values.to(out_ptr.dtype.element_ty), mask=(pairs < num_pairs)[None, :])


@jit
def consumer(
    product_ptr, z_ptr, scale_ptr, offset_ptr, product_scale_ptr, product_offset_ptr,
    weights_ptr, bias_ptr, gate_ptr, gate_bias_ptr, pair_units, out_ptr,
    PRODUCT_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr, OUT: tl.constexpr, EPSILON: tl.constexpr,
    PAIR_UNIT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """The update of some pairs. Grid: (blocks of pairs,)."""
    num_pairs = pair_units * PAIR_UNIT
    pairs = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    z = normed_rows(z_ptr, scale_ptr, offset_ptr, pairs, num_pairs, CHANNELS, EPSILON)
    product_channels, channels = tl.arange(0, PRODUCT_CHANNELS), tl.arange(0, CHANNELS)
    exist = (pairs < num_pairs)[None, :]
    places = tl.cast(num_pairs, tl.int64) * product_channels[:, None] + pairs[None, :]
    product = tl.load(product_ptr + places, mask=exist, other=0.0).to(tl.float32)
    centred, inverse = statistics(product, 0, PRODUCT_CHANNELS, PRODUCT_CHANNELS, EPSILON)
    scale, offset = tl.load(product_scale_ptr + product_channels), tl.load(product_offset_ptr + product_channels)
    normed = tl.trans((centred * inverse * scale[:, None] + offset[:, None]).to(z.dtype))
    for start in tl.range(0, OUT, BLOCK_O):
        outs = start + tl.arange(0, BLOCK_O)
        weights = tl.load(weights_ptr + product_channels[:, None] * OUT + outs[None, :])
        values = tl.dot(normed, weights, input_precision="ieee") + tl.load(bias_ptr + outs)[None, :]
        weights = tl.load(gate_ptr + channels[:, None] * OUT + outs[None, :])
        gates = tl.dot(z, weights, input_precision="ieee") + tl.load(gate_bias_ptr + outs)[None, :]
        out = out_ptr + pairs.to(tl.int64)[:, None] * OUT + outs[None, :]
        values *= sigmoid(gates)
        tl.store(out, values.to(out_ptr.dtype.element_ty), mask=(pairs < num_pairs)[:, None])
