"""The contract for Pallas Mosaic GPU kernels, in JAX's interpreter, and who runs instead of them."""

import contract
import jax
import jax.numpy as jnp
import mosaic_interpreter
import numpy as np
import pytest
from interpreter import INTERPRETER

import pallas_kernels
from pallas_kernels import launch, tuning, warpgroup
from pallas_kernels.attention import mosaic, reference
from pallas_kernels.attention.api import ATTENTION
from pallas_kernels.dispatch import ImplementationUnavailable
from pallas_kernels.layer_norm.api import LAYER_NORM
from pallas_kernels.triangle_multiplication import mosaic as triangle_mosaic
from pallas_kernels.triangle_multiplication import reference as triangle_reference
from pallas_kernels.triangle_multiplication.api import CONSUMER, PRODUCER

COMPLETE = pytest.mark.skipif(
    not mosaic_interpreter.COMPLETE, reason="this JAX's interpreter is slow, and does not write tiles that stick out"
)
# Two batch elements to a program, two blocks of keys in shared memory.
BLOCKS = {
    **{
        f"triangle_{stage}_mosaic": launch.Config(blocks={"TILES": 2}, num_warps=12, num_stages=1)
        for stage in ("producer", "consumer")
    },
    "attention_mosaic": launch.Config(blocks={"BLOCK_Q": 64, "BLOCK_K": 64}, num_warps=12, num_stages=2),
    **{
        f"attention_backward_{name}": launch.Config(
            blocks={"BLOCK_Q": 64, "BLOCK_K": 64, **group}, num_warps=4, num_stages=2
        )
        for name, group in (("queries", {"GROUP": 1}), ("keys", {"GROUP": 1}), ("bias", {}))
    },
}


@pytest.fixture
def interpreted():
    """Programs lowered meanwhile are for Hopper, and run in interpreters."""
    with (
        launch.launching_with(INTERPRETER),
        launch.compiling_for(90),
        warpgroup.running_with(mosaic_interpreter.INTERPRETER),
        tuning.trying(BLOCKS),
    ):
        yield


def _check_contract(case):
    """What Mosaic could not do would run in Triton, and keep the contract too."""
    assert case.operation.why_not("mosaic", *case.cast("bfloat16")) is None
    contract.check(case, "bfloat16", "mosaic")


def test_attention(interpreted):
    """Values and, by Triton's backward kernels from what this one saves, gradients."""
    _check_contract(contract.attention("mixed", 32, (64, 128), heads=1))


def _close(got, want, tolerances):
    for ours, theirs, tolerance in zip(jax.tree.leaves(got), jax.tree.leaves(want), tolerances, strict=True):
        ours, theirs = np.float64(ours), np.float64(theirs)
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)


def _check_saving(case):
    """The result, and each query's highest score and sum."""
    arrays = case.cast("bfloat16")
    got = jax.jit(mosaic.attention_saving)(*arrays)
    _close(got, reference.attention_saving(*arrays), (4e-3, 1e-6, 1e-5))


@COMPLETE
@pytest.mark.parametrize("mask", list(contract.masks(1, 8)))
def test_every_mask_on_uneven_lengths(interpreted, mask):
    _check_saving(contract.attention(mask, 32, (72, 136)))


@COMPLETE
@pytest.mark.parametrize(
    ("dim", "lengths", "batch"), [(16, (80, 64), 1), (64, (200, 64), 2), (32, (64, 328), 4), (32, (72, 72), 1)]
)
@pytest.mark.parametrize("extras", [True, False])
def test_other_sizes(interpreted, dim, lengths, batch, extras):
    mask = "mixed" if extras else "none"
    _check_saving(contract.attention(mask, dim, lengths, extras=extras, heads=1, batch=batch))


@pytest.mark.parametrize("stage", [0, 1], ids=["producer", "consumer"])
def test_triangle_multiplication(interpreted, stage):
    # The backward pass is XLA's, which in bf16 and over fewer channels is at the edge of the contract.
    _check_contract(contract.triangle_stages(8, 8, 128, 64)[stage])


@COMPLETE
@pytest.mark.parametrize(("n", "m", "channels", "out"), [(16, 20, 128, 128), (8, 8, 64, 128), (24, 8, 128, 64)])
def test_triangle_multiplication_of_few_tiles_and_many(interpreted, n, m, channels, out):
    produced, consumed = (case.cast("bfloat16") for case in contract.triangle_stages(n, m, channels, out))
    _close(jax.jit(triangle_mosaic.producer)(*produced), triangle_reference.producer(*produced), (4e-3, 4e-3))
    _close(jax.jit(triangle_mosaic.consumer)(*consumed), triangle_reference.consumer(*consumed), (4e-3,))


@pytest.mark.parametrize(
    ("sizes", "dtype", "reason"),
    [
        ((16, 16, 128, 128), "float32", "pairs are float32; the tensor cores' products it is made of are bfloat16"),
        ((16, 16, 32, 64), "bfloat16", "there are 32 channels; accepted are 64, 128"),
        ((16, 16, 64, 32), "bfloat16", "results have 32 channels; accepted are 64, 128"),
        ((9, 9, 64, 64), "bfloat16", "there are 81 pairs; accepted are multiples of 64 below 2^31"),
        ((16, 16, 64, 64), "bfloat16", None),
    ],
)
def test_what_the_producer_cannot_take(sizes, dtype, reason):
    case, _ = contract.triangle_stages(*sizes)
    assert PRODUCER.why_not("mosaic", *case.cast(dtype)) == reason


def test_what_the_consumer_cannot_take():
    arrays = contract.triangle_stages(16, 16, 64, 64)[1].cast("bfloat16")
    reason = "the product is float32 and pairs are bfloat16; they must be the same"
    assert CONSUMER.why_not("mosaic", arrays[0].astype(jnp.float32), *arrays[1:]) == reason
    assert CONSUMER.why_not("mosaic", *arrays) is None


def _equations(jaxpr):
    """All of a program, of what is inside equations too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_no_kernel_sums_over_the_rows_of_a_tile():
    """That goes through shared memory which the warpgroups of a program share; the interpreter cannot see it."""
    attended = contract.attention("mixed", 32, (128, 128))
    produced, consumed = contract.triangle_stages(8, 8, 64, 64)
    for function, case in (
        (mosaic.attention_saving, attended),
        (triangle_mosaic.producer, produced),
        (triangle_mosaic.consumer, consumed),
    ):
        equations = list(_equations(jax.make_jaxpr(function)(*case.cast("bfloat16")).jaxpr))
        reductions = [e for e in equations if e.primitive.name.startswith("reduce_") and e.invars[0].aval.ndim == 2]
        assert reductions and all(e.params["axes"] == (1,) for e in reductions)


def _shapes(length=128, dim=32, dtype=jnp.bfloat16):
    return (jax.ShapeDtypeStruct((2, length, 4, dim), dtype),) * 3


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (_shapes(dtype=jnp.float32), "arrays are float32; the tensor cores' products it is made of are bfloat16"),
        (_shapes(dim=8), "the head dimension is 8; accepted are 16, 32, 64"),
        (_shapes(length=132), "there are 132 queries; accepted are multiples of 8 from 128"),
        (_shapes(length=64), "there are 64 queries; accepted are multiples of 8 from 128"),
        (_shapes(length=0), "there is nothing to attend to"),
        (_shapes(), None),
    ],
)
def test_what_the_kernel_cannot_take(arrays, reason):
    assert ATTENTION.why_not("mosaic", *arrays) == reason


def _lowered_for(capability, function, *shapes):
    """Counts of kernels of both kinds in a program for a GPU."""
    with launch.compiling_for(capability):
        text = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    return text.count("mosaic_gpu") > 0, text.count("triton_kernel_call") > 0


def test_what_mosaic_cannot_do_is_left_to_triton():
    attend = lambda q, k, v: pallas_kernels.attention(q, k, v, implementation="mosaic")  # noqa: E731
    assert _lowered_for(90, attend, *_shapes()) == (True, False)
    assert _lowered_for(90, attend, *_shapes(dim=8)) == (False, True)
    norm = lambda x, scale: pallas_kernels.layer_norm(x, scale, scale, implementation="mosaic")  # noqa: E731
    vector = jax.ShapeDtypeStruct((64,), jnp.float32)
    assert _lowered_for(90, norm, jax.ShapeDtypeStruct((4, 64), jnp.bfloat16), vector) == (False, True)
    assert LAYER_NORM.why_not("mosaic", vector, vector, vector) == "it has no Mosaic GPU kernel"


def test_other_gpus_refuse():
    attend = lambda q, k, v: pallas_kernels.attention(q, k, v, implementation="mosaic")  # noqa: E731
    with pytest.raises(ImplementationUnavailable, match=r"for compute capability 9.0 \(Hopper\), the program for 8.0"):
        _lowered_for(80, attend, *_shapes())
    with pytest.raises(ImplementationUnavailable, match="Mosaic GPU kernels run on cuda and the program is for cpu"):
        jax.jit(attend).lower(*_shapes())


def test_sizes_that_neither_kind_takes_are_refused():
    shapes = _shapes(dim=12)
    with pytest.raises(ImplementationUnavailable, match="attention cannot run as 'mosaic': the head dimension is 12"):
        jax.eval_shape(lambda q, k, v: pallas_kernels.attention(q, k, v, implementation="mosaic"), *shapes)
