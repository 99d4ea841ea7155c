"""What operations do beyond their values: forms for platforms, derivatives of every kind, batching, choice, refusal."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import INTERPRETER
from jax.sharding import Mesh, PartitionSpec

import pallas_kernels
from fastfold_jax.autochunk.operations import OPERATIONS
from pallas_kernels import blocks, launch, tuning
from pallas_kernels.attention.api import ATTENTION
from pallas_kernels.dispatch import ImplementationUnavailable
from pallas_kernels.layer_norm.api import LAYER_NORM

RNG = np.random.default_rng(3)
SMALL = launch.Config(blocks={"BLOCK_Q": 16, "BLOCK_K": 16, "GROUP": 1}, num_warps=4, num_stages=2)
BLOCKS = {f"attention_{name}": SMALL for name in ("forward", "backward_queries", "backward_keys")}
BLOCKS["attention_backward_bias"] = launch.Config(blocks={"BLOCK_Q": 16, "BLOCK_K": 16}, num_warps=4, num_stages=2)


def _normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def _close(got, want, tolerance):
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=tolerance, atol=tolerance * np.abs(want).max())


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])


def test_softmax_of_rows_with_no_key_is_even():
    weights = pallas_kernels.softmax(_normal(3, 2, 5, 7), bias=_normal(2, 5, 7), mask=np.zeros((3, 7), np.float32))
    np.testing.assert_allclose(weights, 1 / 7, rtol=1e-6)


def _cpu_cases(dtype):
    rows, n, c, h, d = 6, 5, 8, 2, 4
    x, mask = jnp.asarray(_normal(rows, n, c), dtype), (RNG.random((rows, n)) > 0.3).astype(np.float32)
    left, right = jnp.asarray(_normal(3, rows, c), dtype), jnp.asarray(_normal(3, n, c), dtype)
    weights = tuple(_normal(c, h, d) for _ in range(4))
    return {
        pallas_kernels.self_attention: (
            *(x, mask, _normal(h, n, n), weights, _normal(h, d)),
            (_normal(h, d, c), _normal(c)),
        ),
        pallas_kernels.transition: (x, _affine(c), (_normal(c, 16), _normal(16)), (_normal(16, c), _normal(c))),
        pallas_kernels.outer_product_mean: (
            *(left, right, _normal(c, c, 7), _normal(7)),
            np.abs(_normal(rows, n)) + 1,
        ),
        pallas_kernels.triangle_producer: (
            x,
            mask,
            _affine(c),
            (_normal(c, 16), _normal(16)),
            (_normal(c, 16), _normal(16)),
        ),
    }


def _affine(channels):
    return _normal(channels), _normal(channels)


@pytest.mark.parametrize("cache_bytes", [64, 4096])
@DTYPES
def test_the_form_for_cpus_is_the_same_function(monkeypatch, cache_bytes, dtype, tolerance):
    """Under `auto` an operation takes its platform's form, here in blocks as small as one row."""
    for operation, arguments in _cpu_cases(dtype).items():
        with monkeypatch.context() as patch:
            whole = jax.jit(lambda *arguments, operation=operation: operation(*arguments))(*arguments)
            patch.setattr(blocks, "CACHE_BYTES", cache_bytes)
            # A new function each time, as compiled ones are remembered with the size of block they were made with.
            in_blocks = jax.jit(lambda *arguments, operation=operation: operation(*arguments))
            if cache_bytes == 64 and operation is not pallas_kernels.triangle_producer:
                assert "while" in in_blocks.lower(*arguments).as_text()
            for got, want in zip(*map(jax.tree.leaves, (in_blocks(*arguments), whole)), strict=True):
                _close(got, np.asarray(want, np.float64), tolerance)


def test_operations_batch_and_take_no_rows():
    x, weights = _normal(3, 0, 5, 8), tuple(_normal(8, 2, 4) for _ in range(4))
    output = (_normal(2, 4, 8), _normal(8))

    def attend(x):
        return pallas_kernels.self_attention(x, jnp.ones((1, 5)), None, weights, _normal(2, 4), output)

    assert jax.jit(jax.vmap(attend))(x).shape == x.shape


def _attend(implementation="auto"):
    """Attention as a function of q, k, v, bias, and its arguments."""
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0]], np.float32)

    def attend(q, k, v, bias):
        return pallas_kernels.attention(q, k, v, bias=bias, mask=mask, implementation=implementation)

    return attend, (_normal(2, 4, 2, 8), _normal(2, 4, 2, 8), _normal(2, 4, 2, 8), _normal(2, 4, 4))


def test_an_operation_and_its_backward_are_one_equation_each():
    attend, arguments = _attend()
    assert [e.primitive.name for e in jax.make_jaxpr(attend)(*arguments).eqns] == ["attention"]
    grads = jax.make_jaxpr(jax.grad(lambda *a: attend(*a).sum(), range(4)))(*arguments)
    names = [e.primitive.name for e in grads.eqns]
    assert "attention_saving" in names and "attention_backward" in names
    # With XLA asked for by name there is nothing to fuse, and JAX keeps what it likes.
    plain = jax.make_jaxpr(jax.grad(lambda *a: _attend("xla")[0](*a).sum()))(*arguments)
    assert "attention_backward" not in [e.primitive.name for e in plain.eqns]


def test_products_have_the_precision_asked_for_where_the_operation_is_called():
    """Though what is inside is traced later, when the program is lowered; forward and backward."""
    x, weights = _normal(3, 5, 8), tuple(_normal(8, 2, 4) for _ in range(4))

    def attend(x):
        out = pallas_kernels.self_attention(
            x, jnp.ones((1, 5)), None, weights, _normal(2, 4), (_normal(2, 4, 8), _normal(8))
        )
        return jnp.sum(
            pallas_kernels.transition(out, _affine(8), (_normal(8, 16), _normal(16)), (_normal(16, 8), _normal(8)))
        )

    def exact(x):
        with jax.default_matmul_precision("highest"):
            return attend(x)

    lowered = jax.jit(jax.grad(exact)).lower(x).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert products and all("HIGHEST, HIGHEST" in line for line in products)
    assert "HIGHEST" not in jax.jit(jax.grad(attend)).lower(x).as_text()


def test_only_gradients_that_are_wanted_are_made():
    attend, (q, k, v, bias) = _attend()
    jaxpr = jax.make_jaxpr(jax.grad(lambda v: attend(q, k, v, bias).sum()))(v)
    (backward,) = (e for e in jaxpr.eqns if e.primitive.name == "attention_backward")
    assert len(backward.outvars) == 1 and dict(backward.params["static"])["wanted"] == (2,)


def test_forward_mode_and_second_derivatives_are_the_references():
    attend, arguments = _attend()
    plain, _ = _attend("xla")
    directions = tuple(map(np.ones_like, arguments))
    for ours, want in zip(jax.jvp(attend, arguments, directions), jax.jvp(plain, arguments, directions), strict=True):
        _close(ours, np.asarray(want), 1e-5)

    def curvature(function):
        loss = lambda q: jnp.sum(jnp.sin(function(q, *arguments[1:])))  # noqa: E731
        return jax.jvp(jax.grad(loss), arguments[:1], directions[:1])[1]

    _close(curvature(attend), np.asarray(curvature(plain)), 1e-4)


def test_vmap_adds_a_leading_dimension_where_there_may_be_any_and_never_drops_a_kernel_asked_for():
    q, k, mask = _normal(2, 3, 5, 2, 8), _normal(3, 7, 2, 8), np.array([[1, 1, 0, 1, 1, 0, 1]], np.float32)
    bias = _normal(2, 2, 5, 7)

    def attend(q, bias, implementation):
        return pallas_kernels.attention(q, k, k, bias=bias, mask=mask, implementation=implementation)

    def names(function, *arguments):
        return [e.primitive.name for e in jax.make_jaxpr(function)(*arguments).eqns]

    shared = jax.vmap(lambda q: attend(q, bias[0], "auto"), in_axes=2, out_axes=1)
    want = jnp.stack([attend(x, bias[0], "xla") for x in q], 1)
    _close(shared(jnp.moveaxis(q, 0, 2)), np.asarray(want), 1e-5)
    assert "attention" in names(shared, jnp.moveaxis(q, 0, 2))
    # A bias of its own for each: plain JAX if that is allowed, else the kernel once for each.
    each = jax.vmap(lambda q, bias: attend(q, bias, "auto"))
    _close(each(q, bias), np.asarray(jnp.stack([attend(*x, "xla") for x in zip(q, bias, strict=True)])), 1e-5)
    assert "scan" in names(jax.vmap(lambda q, bias: attend(q, bias, "triton")), q, bias)
    assert "attention" not in names(each, q, bias)


@pytest.fixture
def interpreted():
    with launch.launching_with(INTERPRETER), tuning.trying(BLOCKS):
        yield


def test_kernels_run_inside_scan_remat_vmap_and_shard_map(interpreted):
    """Gradients of all of them at once, of the kernel and of the reference."""
    x, bias = 0.3 * _normal(2, 4, 2, 8), _normal(2, 4, 4)  # small, or two layers magnify rounding
    mesh = Mesh(np.array(jax.devices()[:2]), ("rows",))

    def loss(x, bias, implementation):
        @jax.checkpoint
        def step(carry, _):
            x, bias = carry
            return (x + pallas_kernels.attention(x, x, x, bias=bias, implementation=implementation), bias), None

        def local(x, bias):
            x = jax.lax.scan(step, (x, bias), None, length=2)[0][0]
            scales = jnp.array([1.0, 2.0])
            return jax.vmap(lambda scale: pallas_kernels.attention(scale * x, x, x, implementation="auto"))(scales)

        rows = PartitionSpec("rows")
        spread = jax.shard_map(
            local, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=PartitionSpec(None, "rows"), check_vma=False
        )
        return jnp.sum(jnp.sin(spread(x, bias)))

    got = jax.jit(jax.grad(lambda x, bias: loss(x, bias, "triton"), (0, 1)))(x, bias)
    want = jax.jit(jax.grad(lambda x, bias: loss(x, bias, "xla"), (0, 1)))(x, bias)
    for ours, theirs in zip(got, want, strict=True):
        _close(ours, np.asarray(theirs), 1e-4)


def test_what_is_no_implementation_is_refused_at_once():
    message = "implementation='cuda'; accepted are auto, triton, triton_atomic, mosaic, xla"
    with pytest.raises(ImplementationUnavailable, match=message):
        pallas_kernels.layer_norm(_normal(2, 4), _normal(4), _normal(4), implementation="cuda")


def test_shapes_that_a_kernel_cannot_take_are_refused_or_left_to_xla():
    q = _normal(2, 4, 2, 12)
    with pytest.raises(ImplementationUnavailable, match="attention cannot run as 'triton': the head dimension is 12"):
        pallas_kernels.attention(q, q, q, implementation="triton")
    assert ATTENTION.why_not("triton", q, q, q) == "the head dimension is 12; accepted are 8, 16, 32, 64"
    with launch.launching_with(INTERPRETER):  # as on a GPU
        assert jax.jit(lambda q: pallas_kernels.attention(q, q, q))(q).shape == q.shape


def test_a_platform_without_kernels_refuses_when_the_program_is_lowered():
    x, vector = _normal(2, 4), _normal(4)
    function = jax.jit(lambda x: pallas_kernels.layer_norm(x, vector, vector, implementation="triton"))
    with pytest.raises(ImplementationUnavailable, match="Triton kernels run on cuda and the program is for cpu"):
        function.lower(x)
    assert LAYER_NORM.why_not("triton", x, vector, vector, platform="cuda") is None


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ("7.5", r"Triton kernels are for compute capability 8.0 \(Ampere\) or more, the program for 7.5"),
        ("11.0", "kernels are assembled by CUDA 12, which does not know compute capability 11.0"),
    ],
)
def test_a_gpu_that_kernels_are_not_for_runs_xla_and_refuses_what_is_asked_for_by_name(monkeypatch, capability, reason):
    device = types.SimpleNamespace(compute_capability=capability, device_kind="")
    monkeypatch.setattr(launch.jax, "local_devices", lambda backend: [device])
    x, vector = _normal(2, 64), _normal(64)

    def lowered(implementation):
        function = lambda x: pallas_kernels.layer_norm(x, vector, vector, implementation=implementation)  # noqa: E731
        return jax.jit(function).trace(x).lower(lowering_platforms=("cuda",)).as_text()

    assert "triton_kernel_call" not in lowered("auto")
    with pytest.raises(ImplementationUnavailable, match=f"layer_norm cannot run as 'triton': {reason}"):
        lowered("triton")
    # AutoChunk must know that there is no kernel, which would need less memory.
    (rule,) = (rule for primitive, rule in OPERATIONS.items() if primitive.name == "layer_norm")
    assert not rule.fused("cuda")
    device.compute_capability = "8.0"
    assert rule.fused("cuda")


def test_missing_packages_are_a_reason(monkeypatch):
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    reason = LAYER_NORM.why_not("triton", _normal(2, 4), _normal(4), _normal(4))
    assert reason == "triton and jax_triton not installed (pip install 'fastfold-jax[cuda]')"
