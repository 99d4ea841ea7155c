"""What programs of others do: effects, settings, flags, batches of loops, meshes; and numbers at the edges of types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budgets import chunk
from jax import lax
from jax.experimental import io_callback
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fastfold_jax.autochunk.api import BudgetError, Program, autochunk
from fastfold_jax.autochunk.program import read
from fastfold_jax.autochunk.target import CPU
from fastfold_jax.errors import UserError

LENGTH, WIDTH = 256, 64
AMPLE = 2**30


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def attend(q, keys):
    return jax.nn.softmax(q @ keys.T, -1) @ keys


def smallest(function, *arguments):
    """The smallest budget that is met."""
    with pytest.raises(BudgetError) as error:
        chunk(function, 1).explain(*arguments)
    return error.value.smallest


def same_in_chunks(function, *arguments, rtol=1e-5):
    chunked = chunk(function, smallest(function, *arguments))
    assert chunked.explain(*arguments).regions
    got, want = jax.jit(chunked)(*arguments), jax.jit(function)(*arguments)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


@pytest.fixture(params=["whole", "in chunks"])
def budget_for(request):
    return lambda function, *arguments: AMPLE if request.param == "whole" else smallest(function, *arguments)


def test_effects_happen_once_and_in_their_order(budget_for):
    seen = []

    def function(x):
        io_callback(lambda v: seen.append(("first", float(v))), None, x[0, 0], ordered=True)
        y = attend(x, x)
        io_callback(lambda v: seen.append(("second", float(v))), None, x[1, 0], ordered=True)
        return y

    x = draw(LENGTH, WIDTH)
    jax.block_until_ready(jax.jit(chunk(function, budget_for(function, x)))(x))
    jax.effects_barrier()
    assert seen == [("first", float(x[0, 0])), ("second", float(x[1, 0]))]


def test_what_is_printed_for_debugging_is_printed(budget_for, capfd):
    def function(x):
        y = attend(x, x)
        jax.debug.print("the mean is {}", x.mean())
        return y

    x = draw(LENGTH, WIDTH)
    chunked = chunk(function, budget_for(function, x))
    for run in (chunked, jax.grad(lambda x: autochunk(function, AMPLE, target=CPU)(x).sum())):
        jax.block_until_ready(jax.jit(run)(x))
        jax.effects_barrier()
        assert "the mean is" in capfd.readouterr().out


def test_mutable_references_are_refused():
    def function(x):
        total = jax.new_ref(jnp.zeros_like(x))
        total[...] += x
        return total[...] * 3

    with pytest.raises(UserError, match="mutable references"):
        chunk(function, AMPLE)(draw(4))


def test_settings_of_random_numbers_stay(budget_for):
    def function(key, x):
        with jax.threefry_partitionable(False):
            noise = jax.random.normal(key, (LENGTH, WIDTH))
        return attend(x + noise, x)

    arguments = jax.random.key(0), draw(LENGTH, WIDTH)
    got = chunk(function, budget_for(function, *arguments))(*arguments)
    np.testing.assert_allclose(got, function(*arguments), rtol=1e-5, atol=1e-5)


def test_scopes_stay(budget_for):
    @jax.named_scope("outer")
    def function(x):
        return jax.jit(jax.named_scope("inner")(attend))(x, x)

    x = draw(LENGTH, WIDTH)
    lowered = jax.jit(chunk(function, budget_for(function, x))).lower(x).as_text(debug_info=True)
    assert "outer/" in lowered and "inner/dot_general" in lowered


def test_a_slice_that_starts_before_the_array_starts_with_it():
    def function(q, keys, i):
        window = lax.dynamic_slice(keys, (i - 3, 0), (LENGTH, WIDTH), allow_negative_indices=False)
        return attend(q, window)

    same_in_chunks(function, draw(2 * LENGTH, WIDTH), draw(2 * LENGTH, WIDTH, seed=1), jnp.array(0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.float32])
def test_counting_in_small_types(dtype):
    def function(x):
        rows = lax.broadcasted_iota(dtype, (2048, WIDTH), 0)
        return jnp.sort(rows, 1)[:, -1].astype(jnp.float32) + attend(x, x).sum(-1)

    same_in_chunks(function, draw(2048, WIDTH), rtol=1e-4)


def test_a_traced_roll_and_a_batch_of_loops():
    same_in_chunks(lambda x, n: jnp.roll(attend(x, x), n, 0) @ x[:WIDTH], draw(LENGTH, WIDTH), jnp.array(3))

    def loop(x, n):
        return lax.fori_loop(0, n, lambda i, h: 0.9 * attend(h, h), x)

    same_in_chunks(jax.vmap(loop), draw(4, LENGTH, WIDTH), jnp.array([0, 1, 3, 2]))


def test_sums_of_truth_values_and_complex_maxima():
    def any_path(x):
        near = x @ x.T > 1
        return lax.dot_general(near, near, (((1,), (0,)), ((), ()))).any(1)

    same_in_chunks(any_path, draw(LENGTH, WIDTH))
    same_in_chunks(lambda z: jnp.max(lax.cumsum(z[:, None] * z[None], 1).real), draw(LENGTH) + 1j)
    np.testing.assert_allclose(chunk(lambda z: jnp.max(z[:, None] * z[None]), AMPLE)(draw(8) + 1j).shape, ())


def test_two_results_of_one_equation_are_made_together():
    def neighbours(x):
        return lax.top_k(-((x[:, None] - x[None]) ** 2).sum(-1), 5)

    x = draw(LENGTH, 8)
    same_in_chunks(neighbours, x)
    assert smallest(neighbours, x) < LENGTH * LENGTH * 4 / 2


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map_with_an_operand_that_all_devices_have(check_vma):
    mesh = Mesh(np.array(jax.devices()[:2]), ("a",))

    def function(x, w):
        seen = jnp.tril(jnp.ones((x.shape[0], w.shape[0]), bool))
        return jax.nn.softmax(jnp.where(seen, x @ w.T, -1e9), -1) @ w

    x, w = draw(2 * LENGTH, WIDTH), draw(LENGTH, WIDTH, seed=1)
    budget = smallest(function, x[:LENGTH], w) + 2 * w.nbytes  # `w` as each device has it counts as another array

    def spread(function):
        return jax.shard_map(function, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"), check_vma=check_vma)

    chunked = chunk(function, budget)
    np.testing.assert_allclose(jax.jit(spread(chunked))(x, w), spread(function)(x, w), rtol=1e-5, atol=1e-5)
    assert chunked.explanations[-1].regions


def test_arrays_split_over_an_explicit_mesh_are_refused():
    mesh = jax.make_mesh((2,), ("p",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        x = jax.device_put(draw(LENGTH, WIDTH), NamedSharding(mesh, P("p")))
        with pytest.raises(UserError, match=r"split over a mesh.*shard_map"):
            jax.jit(chunk(lambda x: jax.nn.softmax(x), AMPLE))(x)


def test_flags_stay_what_they_are():
    def function(x, times, *, train):
        for _ in range(times if train else 0):
            x = attend(x, x)
        return x

    x = draw(LENGTH, WIDTH)
    got = jax.jit(chunk(function, AMPLE), static_argnums=1, static_argnames="train")(x, 2, train=True)
    np.testing.assert_allclose(got, attend(attend(x, x), attend(x, x)), rtol=1e-5)


def test_donated_arguments_are_numbered_as_jit_does():
    x = draw(LENGTH, WIDTH)

    def function(params, x):
        return x + attend(x, params)

    plans = [
        autochunk(function, AMPLE, target=CPU, donate_argnums=numbers).explain(x, x).before for numbers in (1, (1,), -1)
    ]
    assert len(set(plans)) == 1


def test_programs_of_nothing():
    with pytest.raises(BudgetError):
        autochunk(lambda x: x, 4, target=CPU)(jnp.ones(100))
    assert autochunk(lambda x: x + 1, "min", target=CPU)(jnp.zeros((0, 3))).shape == (0, 3)
    assert isinstance(autochunk(lambda x: (x, 3.0)[1], AMPLE, target=CPU)(draw(3)), jax.Array)


def test_a_callable_keeps_its_own_attributes():
    class Model:
        def __init__(self):
            self.explain = "mine"

        def __call__(self, x):
            return attend(x, x)

    assert chunk(Model(), AMPLE).explain(draw(LENGTH, WIDTH)).regions == ()


def test_a_plan_without_loops_claims_nothing():
    """Neither memory saved nor time lost, where nothing runs in chunks: nothing in this program can."""

    def function(x):
        return lax.fft(lax.fft(x, "FFT", (WIDTH,)), "IFFT", (WIDTH,))

    x = draw(64 * LENGTH, WIDTH) + 0j
    program = Program(read(jax.make_jaxpr(function)(x), CPU.platform), CPU, [False])
    found = program.plan(program.arguments + program.scheduler.whole(program.level).bytes // 2)
    assert not found.chunked and not found.placed
    assert (found.peak, found.seconds) == (found.whole.bytes, found.whole.seconds)
    with pytest.raises(BudgetError):
        chunk(function, program.arguments).explain(x)
