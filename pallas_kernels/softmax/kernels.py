"""Softmax's Triton kernel."""

import triton.language as tl

from pallas_kernels.device import jit

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
_MASKED: tl.constexpr = tl.constexpr(-1e9)


@jit
def _scores(
    logits_row, bias_row, mask_row, start, k_len,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A block of a row's scores in units of log 2; those that do not exist are infinitely low."""
    keys = start + tl.arange(0, BLOCK_K)
    exist = keys < k_len
    scores = tl.load(logits_row + keys, mask=exist, other=0.0).to(tl.float32)
    if HAS_BIAS:
        scores += tl.load(bias_row + keys, mask=exist, other=0.0).to(tl.float32)
    scores *= _LOG2_E
    if HAS_MASK:
        scores = tl.where(tl.load(mask_row + keys, mask=exist, other=0.0) > 0, scores, _MASKED)
    return tl.where(exist, scores, -float("inf"))


@jit
def forward(
    logits_ptr, bias_ptr, mask_ptr, q_len, k_units, out_ptr,
    HEADS: tl.constexpr, K_UNIT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr,
    MASK_SHARED: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One row of one head. Grid: (b, q, h). Two passes over the row: sums, then weights."""
    batch, row, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    k_len = k_units * K_UNIT
    wide = k_len.to(tl.int64)
    first = wide * q_len * (batch * HEADS + head) + row * wide
    logits_row, bias_row = logits_ptr + first, bias_ptr + wide * q_len * head + row * wide
    mask_row = mask_ptr if MASK_SHARED else mask_ptr + wide * batch
    peaks = tl.full([BLOCK_K], -float("inf"), tl.float32)
    totals = tl.full([BLOCK_K], 0.0, tl.float32)
    for start in tl.range(0, k_len, BLOCK_K):
        scores = _scores(logits_row, bias_row, mask_row, start, k_len, HAS_BIAS, HAS_MASK, BLOCK_K)
        # Where no key exists both are infinitely low.
        new_peaks = tl.maximum(peaks, scores)
        shift = tl.where(new_peaks == -float("inf"), 0.0, new_peaks)
        totals = totals * tl.exp2(peaks - shift) + tl.exp2(scores - shift)
        peaks = new_peaks
    peak = tl.max(peaks, 0)
    total = tl.sum(totals * tl.exp2(peaks - peak), 0)
    for start in tl.range(0, k_len, BLOCK_K):
        scores = _scores(logits_row, bias_row, mask_row, start, k_len, HAS_BIAS, HAS_MASK, BLOCK_K)
        keys = start + tl.arange(0, BLOCK_K)
        tl.store(out_ptr + first + keys, tl.exp2(scores - peak) / total, mask=keys < k_len)
