"""Attention's Triton kernels: online softmax forward; backward for queries, for keys and values, for the bias.

Everywhere: q, gate, out [b, q, h, d] and k, v [b, k, h, d] contiguous, bias [h, q, k], mask [1 or b, k]. Scores are
q k + bias / scale; times `unit`, the scale in units of log 2, they are exponents, and so are peaks. That is a fused
multiply-add for the bias and one for the peak. Backward they are the same to the last bit, or weights would not add up
to one. Lengths come in units that the compiler knows, so that it can load rows of the bias as vectors.
"""

import triton.language as tl

from pallas_kernels.device import jit

_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
# Exponent and score of a masked key. All keys masked means even weights: a power of two times any unit is exact.
_MASKED: tl.constexpr = tl.constexpr(-1e9)
_MASKED_SCORE: tl.constexpr = tl.constexpr(-(2.0**32))


@jit
def _rows(ptr, batch, head, rows, length, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Loads some rows of one head of [b, length, h, d]: [rows, BLOCK_D], zero beyond DIM. Rows must exist."""
    base = ptr + tl.cast(length, tl.int64) * batch * HEADS * DIM + head * DIM
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * (HEADS * DIM) + columns[None, :]
    if BLOCK_D == DIM:
        return tl.load(pointers)
    return tl.load(pointers, mask=(columns < DIM)[None, :], other=0.0)


@jit
def _store_rows(ptr, value, batch, head, rows, length, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Stores what `_rows` loads, leaving out rows that do not exist."""
    base = ptr + tl.cast(length, tl.int64) * batch * HEADS * DIM + head * DIM
    columns = tl.arange(0, BLOCK_D)
    pointers = base + rows[:, None] * (HEADS * DIM) + columns[None, :]
    exists = (rows < length)[:, None] & (columns < DIM)[None, :]
    tl.store(pointers, value.to(ptr.dtype.element_ty), mask=exists)


@jit
def _block_of(index, blocks, num_batch, GROUP: tl.constexpr):
    """(batch element, block) of a program: GROUP elements side by side go through all blocks before the next ones.

    Programs that run together then share the bias, and find keys and values where the last ones left them in cache.
    """
    group = index // (GROUP * blocks)
    first = group * GROUP
    size = tl.minimum(num_batch - first, GROUP)
    within = index - first * blocks
    return first + within % size, within // size


@jit
def _keys(start, k_len, BLOCK_K: tl.constexpr, TAIL: tl.constexpr):
    """Positions of a block of keys; of a tail, those that do not exist repeat the last."""
    keys = start + tl.arange(0, BLOCK_K)
    return tl.minimum(keys, k_len - 1) if TAIL else keys


@jit
def _kept(
    values, masked, absent, mask_ptr, keys, start, k_len,
    BLOCK_K: tl.constexpr, HAS_MASK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Values [q, k] with those of masked keys, and those of keys that do not exist, replaced."""
    if HAS_MASK:
        values = tl.where((tl.load(mask_ptr + keys) > 0)[None, :], values, masked)
    if TAIL:
        values = tl.where((start + tl.arange(0, BLOCK_K) < k_len)[None, :], values, absent)
    return values


@jit
def _biased(products, bias, unit):
    """Scores of products and a bias.

    Fused by name: of a sum Triton makes what the product starts from, and then it does not load the bias ahead.
    """
    return tl.fma(bias.to(tl.float32), _LOG2_E / unit, products)


@jit
def _scores(
    q, k_ptr, bias_rows, keys, k_len, batch, head, unit,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Loads a block of keys: their scores [q, k], and themselves."""
    k = _rows(k_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if HAS_BIAS:
        scores = _biased(scores, tl.load(bias_rows[:, None] + keys[None, :]), unit)
    return scores, k


@jit
def _forward_step(
    total, peak, weighted, q, k_ptr, v_ptr, bias_rows, mask_ptr, start, k_len, batch, head, unit,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One block of keys of the online softmax."""
    keys = _keys(start, k_len, BLOCK_K, TAIL)
    scores, _ = _scores(q, k_ptr, bias_rows, keys, k_len, batch, head, unit, HEADS, DIM, BLOCK_D, HAS_BIAS)
    scores = _kept(scores, _MASKED_SCORE, -float("inf"), mask_ptr, keys, start, k_len, BLOCK_K, HAS_MASK, TAIL)
    new_peak = tl.maximum(peak, tl.max(scores, 1) * unit)
    weights = tl.exp2(tl.fma(scores, unit, -new_peak[:, None]))
    shrink = tl.exp2(peak - new_peak)
    v = _rows(v_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
    weighted = tl.dot(weights.to(v.dtype), v, acc=weighted * shrink[:, None], input_precision="ieee")
    return total * shrink + tl.sum(weights, 1), new_peak, weighted


@jit
def forward(
    q_ptr, k_ptr, v_ptr, bias_ptr, mask_ptr, gate_ptr, q_units, k_units, num_batch, out_ptr, peak_ptr, total_ptr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, Q_UNIT: tl.constexpr, K_UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_GATE: tl.constexpr, MASK_SHARED: tl.constexpr,
    EVEN_K: tl.constexpr, SAVE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head of one batch element. Grid: (b x blocks of queries, h)."""
    head, q_len, k_len = tl.program_id(1), q_units * Q_UNIT, k_units * K_UNIT
    batch, block = _block_of(tl.program_id(0), tl.cdiv(q_len, BLOCK_Q), num_batch, GROUP)
    wanted = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    # Rows beyond the end repeat the last one and are not stored, so that no load needs a mask.
    rows = tl.minimum(wanted, q_len - 1)
    q = _rows(q_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
    bias_rows = bias_ptr + head.to(tl.int64) * q_len * k_len + rows * k_len
    if not MASK_SHARED:
        mask_ptr += tl.cast(k_len, tl.int64) * batch
    total = tl.full([BLOCK_Q], 0.0, tl.float32)
    peak = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    weighted = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    whole = k_len if EVEN_K else k_len // BLOCK_K * BLOCK_K
    for start in tl.range(0, whole, BLOCK_K):
        start = tl.multiple_of(start, BLOCK_K)
        total, peak, weighted = _forward_step(
            total, peak, weighted, q, k_ptr, v_ptr, bias_rows, mask_ptr, start, k_len, batch, head, SCALE * _LOG2_E,
            HEADS, DIM, BLOCK_D, BLOCK_K, HAS_BIAS, HAS_MASK, False,
        )  # fmt: skip
    if not EVEN_K:
        total, peak, weighted = _forward_step(
            total, peak, weighted, q, k_ptr, v_ptr, bias_rows, mask_ptr, whole, k_len, batch, head, SCALE * _LOG2_E,
            HEADS, DIM, BLOCK_D, BLOCK_K, HAS_BIAS, HAS_MASK, True,
        )  # fmt: skip
    out = weighted / total[:, None]
    if HAS_GATE:
        gate = _rows(gate_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D).to(tl.float32)
        out = out / (1.0 + tl.exp2(-gate * _LOG2_E))
    _store_rows(out_ptr, out, batch, head, wanted, q_len, HEADS, DIM, BLOCK_D)
    if SAVE:
        statistics = tl.cast(q_len, tl.int64) * (batch * HEADS + head) + wanted
        peak = tl.where(peak == _MASKED_SCORE * (SCALE * _LOG2_E), _MASKED, peak)
        tl.store(peak_ptr + statistics, peak, mask=wanted < q_len)
        tl.store(total_ptr + statistics, total, mask=wanted < q_len)


@jit
def _rows_and_statistic(
    ptr, statistic_ptr, batch, head, rows, length, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Some rows of one head, and of each a number of [b, h, length]: queries and peaks, or cotangents and deltas."""
    statistics = statistic_ptr + tl.cast(length, tl.int64) * (batch * HEADS + head)
    return _rows(ptr, batch, head, rows, length, HEADS, DIM, BLOCK_D), tl.load(statistics + rows)


@jit
def _queries_step(
    grad, q, cotangent, peak, delta, k_ptr, v_ptr, bias_rows, bias_grad_rows, mask_ptr, exists, start, k_len,
    batch, head, unit,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, TAIL: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """One block of keys of the queries' gradient."""
    keys = _keys(start, k_len, BLOCK_K, TAIL)
    scores, k = _scores(q, k_ptr, bias_rows, keys, k_len, batch, head, unit, HEADS, DIM, BLOCK_D, HAS_BIAS)
    v = _rows(v_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
    products = tl.dot(cotangent, tl.trans(v), input_precision="ieee")
    score_grad = tl.exp2(tl.fma(scores, unit, -peak[:, None])) * (products - delta[:, None])
    # A masked key has no weight here, and one whose whole row is masked has no gradient: exp2 may overflow.
    score_grad = _kept(score_grad, 0.0, 0.0, mask_ptr, keys, start, k_len, BLOCK_K, HAS_MASK, TAIL)
    if ATOMIC:
        exist = exists[:, None] & (start + tl.arange(0, BLOCK_K) < k_len)[None, :]
        tl.atomic_add(bias_grad_rows[:, None] + keys[None, :], score_grad, mask=exist, sem="relaxed")
    return tl.dot(score_grad.to(k.dtype), k, acc=grad, input_precision="ieee")


@jit
def backward_queries(
    q_ptr, k_ptr, v_ptr, bias_ptr, mask_ptr, cotangent_ptr, peak_ptr, delta_ptr, q_units, k_units, num_batch,
    grad_ptr, bias_grad_ptr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, Q_UNIT: tl.constexpr, K_UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, MASK_SHARED: tl.constexpr, EVEN_K: tl.constexpr,
    ATOMIC: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Gradient of one block of queries; adds to the bias gradient too where that is atomic.

    Grid: (b x blocks of queries, h). `cotangent` and `delta` are divided by the softmax's sums already.
    """
    head, q_len, k_len = tl.program_id(1), q_units * Q_UNIT, k_units * K_UNIT
    batch, block = _block_of(tl.program_id(0), tl.cdiv(q_len, BLOCK_Q), num_batch, GROUP)
    wanted = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    rows = tl.minimum(wanted, q_len - 1)
    q, peak = _rows_and_statistic(q_ptr, peak_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
    cotangent, delta = _rows_and_statistic(cotangent_ptr, delta_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
    first = head.to(tl.int64) * q_len * k_len
    bias_rows, bias_grad_rows = bias_ptr + first + rows * k_len, bias_grad_ptr + first + rows * k_len
    if not MASK_SHARED:
        mask_ptr += tl.cast(k_len, tl.int64) * batch
    grad = tl.full([BLOCK_Q, BLOCK_D], 0.0, tl.float32)
    whole = k_len if EVEN_K else k_len // BLOCK_K * BLOCK_K
    for start in tl.range(0, whole, BLOCK_K):
        start = tl.multiple_of(start, BLOCK_K)
        grad = _queries_step(
            grad, q, cotangent, peak, delta, k_ptr, v_ptr, bias_rows, bias_grad_rows, mask_ptr, wanted < q_len,
            start, k_len, batch, head, SCALE * _LOG2_E,
            HEADS, DIM, BLOCK_D, BLOCK_K, HAS_BIAS, HAS_MASK, False, ATOMIC,
        )  # fmt: skip
    if not EVEN_K:
        grad = _queries_step(
            grad, q, cotangent, peak, delta, k_ptr, v_ptr, bias_rows, bias_grad_rows, mask_ptr, wanted < q_len,
            whole, k_len, batch, head, SCALE * _LOG2_E,
            HEADS, DIM, BLOCK_D, BLOCK_K, HAS_BIAS, HAS_MASK, True, ATOMIC,
        )  # fmt: skip
    _store_rows(grad_ptr, grad * SCALE, batch, head, wanted, q_len, HEADS, DIM, BLOCK_D)


@jit
def _keys_step(
    k_grad, v_grad, k, v, q_ptr, cotangent_ptr, peak_ptr, delta_ptr, bias_columns, exist, mask, start, q_len, k_len,
    batch, head, unit,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One block of queries of the gradients of keys and values; scores are transposed, [k, q]."""
    rows = _keys(start, q_len, BLOCK_Q, TAIL)
    q, peak = _rows_and_statistic(q_ptr, peak_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
    scores = tl.dot(k, tl.trans(q), input_precision="ieee")
    if HAS_BIAS:
        # Loaded along its rows, and turned in shared memory.
        bias = tl.load(bias_columns[None, :] + rows[:, None] * k_len, mask=exist[None, :], other=0.0)
        scores = _biased(scores, tl.trans(bias), unit)
    shift = -peak[None, :]
    exponents = tl.fma(scores, unit, shift)
    if HAS_MASK:
        exponents = tl.where((mask > 0)[:, None], exponents, shift + _MASKED)
    weights = tl.exp2(exponents)
    if TAIL:
        weights = tl.where((start + tl.arange(0, BLOCK_Q) < q_len)[None, :], weights, 0.0)
    cotangent, delta = _rows_and_statistic(cotangent_ptr, delta_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
    v_grad = tl.dot(weights.to(cotangent.dtype), cotangent, acc=v_grad, input_precision="ieee")
    products = tl.dot(v, tl.trans(cotangent), input_precision="ieee")
    score_grad = weights * (products - delta[None, :])
    k_grad = tl.dot(score_grad.to(q.dtype), q, acc=k_grad, input_precision="ieee")
    return k_grad, v_grad


@jit
def backward_keys(
    q_ptr, k_ptr, v_ptr, bias_ptr, mask_ptr, cotangent_ptr, peak_ptr, delta_ptr, q_units, k_units, num_batch,
    k_grad_ptr, v_grad_ptr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, Q_UNIT: tl.constexpr, K_UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, MASK_SHARED: tl.constexpr, EVEN_Q: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values. Grid: (b x blocks of keys, h)."""
    head, q_len, k_len = tl.program_id(1), q_units * Q_UNIT, k_units * K_UNIT
    batch, block = _block_of(tl.program_id(0), tl.cdiv(k_len, BLOCK_K), num_batch, GROUP)
    wanted = block * BLOCK_K + tl.arange(0, BLOCK_K)
    keys = tl.minimum(wanted, k_len - 1)
    k = _rows(k_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
    v = _rows(v_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
    if not MASK_SHARED:
        mask_ptr += tl.cast(k_len, tl.int64) * batch
    mask = tl.load(mask_ptr + keys) if HAS_MASK else 0.0
    # Not the repeated positions: the compiler must see that these are contiguous.
    bias_columns = bias_ptr + head.to(tl.int64) * q_len * k_len + wanted
    exist = wanted < k_len
    k_grad = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    v_grad = tl.full([BLOCK_K, BLOCK_D], 0.0, tl.float32)
    whole = q_len if EVEN_Q else q_len // BLOCK_Q * BLOCK_Q
    for start in tl.range(0, whole, BLOCK_Q):
        start = tl.multiple_of(start, BLOCK_Q)
        k_grad, v_grad = _keys_step(
            k_grad, v_grad, k, v, q_ptr, cotangent_ptr, peak_ptr, delta_ptr, bias_columns, exist, mask, start, q_len,
            k_len, batch, head, SCALE * _LOG2_E, HEADS, DIM, BLOCK_D, BLOCK_Q, HAS_BIAS, HAS_MASK, False,
        )  # fmt: skip
    if not EVEN_Q:
        k_grad, v_grad = _keys_step(
            k_grad, v_grad, k, v, q_ptr, cotangent_ptr, peak_ptr, delta_ptr, bias_columns, exist, mask, whole, q_len,
            k_len, batch, head, SCALE * _LOG2_E, HEADS, DIM, BLOCK_D, BLOCK_Q, HAS_BIAS, HAS_MASK, True,
        )  # fmt: skip
    if HAS_MASK:
        k_grad = tl.where((mask > 0)[:, None], k_grad, 0.0)
    _store_rows(k_grad_ptr, k_grad * SCALE, batch, head, wanted, k_len, HEADS, DIM, BLOCK_D)
    _store_rows(v_grad_ptr, v_grad, batch, head, wanted, k_len, HEADS, DIM, BLOCK_D)


@jit
def backward_bias(
    q_ptr, k_ptr, v_ptr, bias_ptr, mask_ptr, cotangent_ptr, peak_ptr, delta_ptr, q_units, k_units, num_batch,
    grad_ptr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, Q_UNIT: tl.constexpr, K_UNIT: tl.constexpr,
    HAS_MASK: tl.constexpr, MASK_SHARED: tl.constexpr,
):  # fmt: skip
    """One tile [q, k] of one head's bias gradient, summed over the batch in order. Grid: (blocks of k, of q, h)."""
    head = tl.program_id(2)
    q_len, k_len = q_units * Q_UNIT, k_units * K_UNIT
    wanted_rows = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    wanted_keys = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    rows, keys = tl.minimum(wanted_rows, q_len - 1), tl.minimum(wanted_keys, k_len - 1)
    first = head.to(tl.int64) * q_len * k_len
    exist = (wanted_rows < q_len)[:, None] & (wanted_keys < k_len)[None, :]
    tile = first + wanted_rows[:, None] * k_len + wanted_keys[None, :]
    bias = tl.load(bias_ptr + tile, mask=exist, other=0.0)
    grad = tl.full([BLOCK_Q, BLOCK_K], 0.0, tl.float32)
    for batch in tl.range(0, num_batch):
        q, peak = _rows_and_statistic(q_ptr, peak_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
        k = _rows(k_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
        scores = _biased(tl.dot(q, tl.trans(k), input_precision="ieee"), bias, SCALE * _LOG2_E)
        weights = tl.exp2(tl.fma(scores, SCALE * _LOG2_E, -peak[:, None]))
        cotangent, delta = _rows_and_statistic(cotangent_ptr, delta_ptr, batch, head, rows, q_len, HEADS, DIM, BLOCK_D)
        v = _rows(v_ptr, batch, head, keys, k_len, HEADS, DIM, BLOCK_D)
        products = tl.dot(cotangent, tl.trans(v), input_precision="ieee")
        score_grad = weights * (products - delta[:, None])
        if HAS_MASK:
            shift = 0 if MASK_SHARED else tl.cast(k_len, tl.int64) * batch
            # As for queries.
            score_grad = tl.where((tl.load(mask_ptr + shift + keys) > 0)[None, :], score_grad, 0.0)
        grad += score_grad
    tl.store(grad_ptr + tile, grad.to(grad_ptr.dtype.element_ty), mask=exist)
