"""The outer product mean's Triton kernel."""

import triton.language as tl

from pallas_kernels.device import jit


@jit
def forward(
    left_ptr, right_ptr, weights_ptr, bias_ptr, norm_ptr, num_rows, num_i, num_j, out_ptr,
    C: tl.constexpr, E: tl.constexpr, Z: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """A tile of pairs, whose outer products are made and projected a few channels of the left at a time.

    left [group, s, i, c], right [s, j, e], weights [group, c e, z]. Grid: (blocks of j, blocks of i).
    """
    first_i, first_j = tl.program_id(1) * BLOCK_I, tl.program_id(0) * BLOCK_J
    lefts = first_i * C + tl.arange(0, BLOCK_I * C)
    rights = first_j * E + tl.arange(0, BLOCK_J * E)
    out = tl.full([BLOCK_I * BLOCK_J, Z], 0.0, tl.float32)
    width = num_i * C
    for group in tl.range(0, GROUPS):
        outer = tl.full([BLOCK_I * C, BLOCK_J * E], 0.0, tl.float32)
        base = left_ptr + width.to(tl.int64) * num_rows * group
        for start in tl.range(0, num_rows, BLOCK_S):
            rows = start + tl.arange(0, BLOCK_S)
            exist = (rows < num_rows)[:, None]
            places = rows.to(tl.int64)[:, None] * width + lefts[None, :]
            left = tl.load(base + places, mask=exist & (lefts < width)[None, :], other=0.0)
            places = rows.to(tl.int64)[:, None] * (num_j * E) + rights[None, :]
            right = tl.load(right_ptr + places, mask=exist & (rights < num_j * E)[None, :], other=0.0)
            outer = tl.dot(tl.trans(left), right, acc=outer, input_precision="ieee")
        outer = tl.reshape(outer.to(left_ptr.dtype.element_ty), (BLOCK_I, C, BLOCK_J, E))
        outer = tl.reshape(tl.permute(outer, (0, 2, 1, 3)), (BLOCK_I * BLOCK_J, C * E))
        places = (group * C * E + tl.arange(0, C * E))[:, None] * Z + tl.arange(0, Z)[None, :]
        out = tl.dot(outer, tl.load(weights_ptr + places), acc=out, input_precision="ieee")
    pairs = tl.arange(0, BLOCK_I * BLOCK_J)
    i, j = first_i + pairs // BLOCK_J, first_j + pairs % BLOCK_J
    exist = (i < num_i) & (j < num_j)
    places = num_j.to(tl.int64) * i + j
    norm = tl.load(norm_ptr + places, mask=exist, other=1.0)
    out = (out + tl.load(bias_ptr + tl.arange(0, Z))[None, :]) / norm[:, None]
    places = places[:, None] * Z + tl.arange(0, Z)[None, :]
    tl.store(out_ptr + places, out.to(out_ptr.dtype.element_ty), mask=exist[:, None])
