"""Dimension flow: every way to cut every primitive, and every operation, gives what the whole gives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import pallas_kernels
from fastfold_jax.autochunk import rules
from fastfold_jax.autochunk.emit import evaluate
from fastfold_jax.autochunk.operations import OPERATIONS
from fastfold_jax.autochunk.plan import Item, residual_streams
from fastfold_jax.autochunk.program import Level, Value, read
from fastfold_jax.autochunk.region import options, walk
from fastfold_jax.autochunk.rules import RULES, Rule
from fastfold_jax.autochunk.schedule import LevelPlan, Placed, Scheduler, arrange
from fastfold_jax.autochunk.target import CPU

X = jax.random.normal(jax.random.key(0), (6, 5, 8))
Y = jax.random.normal(jax.random.key(1), (6, 4, 8))
NUMBERS = jnp.array([[3, 1], [0, 4], [2, 2]])


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


FUNCTIONS = {
    "elementwise": lambda: jnp.tanh(X) * 2 + X[:, :1],
    "select": lambda: jnp.where(X > 0, X, -1.0),
    "clamp": lambda: lax.clamp(-0.5, X, 0.5),
    "broadcast": lambda: jnp.broadcast_to(X[:, None], (6, 3, 5, 8)) + 1,
    "transpose": lambda: jnp.transpose(X, (2, 0, 1)) + 1,
    "merge": lambda: X.reshape(30, 8) + 1,
    "split": lambda: X.reshape(6, 5, 2, 4) + 1,
    "merge_and_split": lambda: X.reshape(3, 10, 8) + 1,
    "squeeze": lambda: jnp.squeeze(X[:, 2:3], 1) + 1,
    "iota": lambda: lax.broadcasted_iota(jnp.int32, (6, 5), 0) * 2,
    "slice": lambda: X[1:5, ::2, 3:] + 1,
    "dynamic_slice": lambda: lax.dynamic_slice(X, (1, 0, 2), (3, 5, 4)) + 1,
    "dynamic_update_slice": lambda: lax.dynamic_update_slice(X, X[:2, :, :3] * 2, (1, 0, 2)) + 1,
    "concatenate": lambda: jnp.concatenate([X, Y], 1) + 1,
    "stack": lambda: jnp.stack([X, X * 2], 1) + 1,
    "unstack": lambda: sum(jnp.split(X, 4, axis=-1)),
    "pad": lambda: jnp.pad(X, ((0, 0), (1, 2), (0, 0))) + 1,
    "reverse": lambda: X[:, ::-1] + 1,
    "cumsum": lambda: jnp.cumsum(X, 1) + 1,
    "sort": lambda: jnp.sort(X, 1) + 1,
    "sort_pairs": lambda: lax.sort((X, X * 2), dimension=1, num_keys=1)[1] + 1,
    "top_k": lambda: lax.top_k(X, 3)[0] + 1,
    "argmax": lambda: jnp.argmax(X, 1) + 1,
    "sum": lambda: jnp.sum(X, (0, 2)),
    "max": lambda: jnp.max(X, 1),
    "min": lambda: jnp.min(X, 0),
    "product": lambda: jnp.prod(X, 2),
    "any": lambda: jnp.any(X > 0, 0),
    "all": lambda: jnp.all(X > -1, 1),
    "integer_max": lambda: jnp.max((X * 9).astype(jnp.int32), 1),
    "low_precision_sum": lambda: lax.reduce_sum_p.bind(X.astype(jnp.bfloat16), axes=(1,), out_sharding=None),
    "dot": lambda: jnp.einsum("bid,bjd->bij", X, Y),
    "dot_both_contracted": lambda: jnp.einsum("bid,bjd->ij", X, Y),
    "gather_rows": lambda: X[NUMBERS] + 1,
    "gather_along": lambda: jnp.take_along_axis(X, jnp.zeros((6, 2, 8), jnp.int32) + 3, 1) + 1,
    "gather_whole": lambda: X[:, NUMBERS[:, 0]] + 1,
    "scatter_add": lambda: X.at[2].add(1.0) + 1,
    "scatter": lambda: X.at[:, 1].set(7.0) + 1,
    "one_hot": lambda: jax.nn.one_hot(NUMBERS, 5) + 1,
    "softmax": lambda: jax.nn.softmax(X, 1),
}


# Dimensions of the result along which a primitive cannot be cut: they are what it reorders, joins or selects from.
WHOLE_ALONG = {
    "elementwise": {"slice": [1]},
    "merge": {"reshape": [0]},
    "split": {"reshape": [3]},
    "merge_and_split": {"reshape": [1]},
    "slice": {"slice": [1]},
    "dynamic_slice": {"dynamic_slice": [0, 2]},
    "dynamic_update_slice": {"dynamic_update_slice": [0, 2], "slice": [0, 2]},
    "concatenate": {"concatenate": [1]},
    "stack": {"stack": [1]},
    "pad": {"pad": [1]},
    "reverse": {"rev": [1]},
    "cumsum": {"cumsum": [1]},
    "sort": {"sort": [1]},
    "sort_pairs": {"sort": [1]},
    "top_k": {"top_k": [2]},
    "gather_whole": {"slice": [0, 2]},  # of the numbers
    "scatter_add": {"scatter-add": [0]},
    "scatter": {"scatter": [1]},
    "softmax": {"reduce_max": [1], "reduce_sum": [1]},
}
# What is recomputed for each chunk or made once makes no difference for these.
CHEAP = {
    "squeeze",
    "broadcast_in_dim",
    "convert_element_type",
    "iota",
    "lt",
    "add",
    "mul",
    "max",
    "select_n",
    "stop_gradient",
}


def chunked_everywhere(function):
    """Every region that makes the function's output, as arguments for `run`."""
    # As inputs and not constants, so that nothing is folded away.
    closed = jax.make_jaxpr(lambda x: function())(0.0)
    level = read(closed, "cpu")
    scheduler = Scheduler(CPU)
    for output in level.outputs:
        if output.source is None:
            continue
        for root in options(level.equations[output.source], output):
            region = walk(level, [root], lambda value: value.source is None)
            yield output, root, (scheduler, level, region, 2)  # where the length is odd, a remainder too


def run(scheduler, level: Level, region, size, value: Value):
    items = [Item(max(s.index for s in region.steps), list(region.sources), [value], region)]
    known, queue = {value}, list(region.sources)
    while queue:
        needed = queue.pop()
        if needed.source is None or needed in known:
            continue
        equation = level.equations[needed.source]
        known.update(equation.outputs)
        inputs = [v for v in equation.inputs if v.literal is None]
        items.append(Item(needed.source, inputs, list(equation.outputs)))
        queue += inputs
    placed = [Placed(item, size if item.region else 0) for item in arrange(items)]
    part = Level(level.inputs, level.constants, level.equations, [value])
    return evaluate(LevelPlan(part, placed, 0, 0.0, scheduler.whole(level)), [0.0])[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_cut_gives_the_whole(name):
    want = FUNCTIONS[name]()
    cuts = 0
    for value, root, arguments in chunked_everywhere(FUNCTIONS[name]):
        got = run(*arguments, value)
        assert got.dtype == want.dtype
        tolerance = 2e-2 if got.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(
            np.asarray(got, np.float64), np.asarray(want, np.float64), tolerance, tolerance, err_msg=str(root)
        )
        cuts += 1
    assert cuts > 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_cut_goes_through_all_that_it_can(name):
    found: dict[str, list[int]] = {}
    for _, root, (_, level, region, _) in chunked_everywhere(FUNCTIONS[name]):
        inside = {step.index for step in region.steps}
        outside = {equation.name for index, equation in enumerate(level.equations) if index not in inside}
        for primitive in outside - CHEAP:
            found.setdefault(primitive, []).append(root.dim)
    assert found == WHOLE_ALONG.get(name, {})


def affine(rows, columns):
    return draw(rows, columns), draw(columns)


OPERATION_CALLS = {
    "attention": lambda: pallas_kernels.attention(
        draw(3, 5, 2, 4), draw(3, 6, 2, 4), draw(3, 6, 2, 4), bias=draw(2, 5, 6), mask=jnp.ones((1, 6)).at[0, 2].set(0)
    ),
    "self_attention": lambda: pallas_kernels.self_attention(
        draw(3, 5, 8),
        jnp.ones((1, 5)).at[0, 2].set(0),
        None,
        (draw(8, 2, 4), draw(8, 2, 4) + 1, draw(8, 2, 4) - 1, draw(8, 2, 4)),
        draw(2, 4),
        (draw(2, 4, 6), draw(6)),
    ),
    "layer_norm": lambda: pallas_kernels.layer_norm(draw(3, 5, 8), draw(8), draw(8)),
    "outer_product_mean": lambda: pallas_kernels.outer_product_mean(
        draw(4, 3, 2), draw(4, 5, 2), draw(2, 2, 6), draw(6), jnp.abs(draw(3, 5)) + 1
    ),
    "softmax": lambda: pallas_kernels.softmax(draw(3, 2, 5, 6), bias=draw(2, 5, 6), mask=jnp.ones((3, 6))),
    "transition": lambda: pallas_kernels.transition(draw(3, 5, 8), (draw(8), draw(8)), affine(8, 16), affine(16, 8)),
    "triangle_producer": lambda: pallas_kernels.triangle_producer(
        draw(3, 5, 8), jnp.ones((3, 5)), (draw(8), draw(8)), affine(8, 12), affine(8, 12)
    ),
    "triangle_contraction": lambda: pallas_kernels.triangle_contraction((draw(4, 3, 5), draw(4, 2, 5)), "outgoing"),
    "triangle_consumer": lambda: pallas_kernels.triangle_consumer(
        draw(6, 3, 5), draw(3, 5, 8), ((draw(8), draw(8)), (draw(6), draw(6))), affine(6, 8), affine(8, 8)
    ),
}


@pytest.mark.parametrize("name", OPERATION_CALLS)
def test_operations_are_cut_as_they_declare(name, monkeypatch):
    for primitive, rule in list(OPERATIONS.items()):  # kept whole, as where they are kernels
        kept = dataclasses.replace(rule, fused=lambda platform, **params: True)
        monkeypatch.setitem(OPERATIONS, primitive, kept)
    wanted = jax.tree.leaves(OPERATION_CALLS[name]())
    cuts = 0
    for value, root, arguments in chunked_everywhere(OPERATION_CALLS[name]):
        assert root.name == name
        want = wanted[arguments[1].outputs.index(value)]
        np.testing.assert_allclose(run(*arguments, value), want, 1e-5, 1e-5, err_msg=str(root))
        cuts += 1
    assert cuts > 0


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_a_transition_adds_to_is_a_residual_stream(platform):
    """As a kernel, and as the sum that it is elsewhere."""

    def twice(x):
        for _ in range(2):
            x = pallas_kernels.transition(x, (draw(32), draw(32)), affine(32, 128), affine(128, 32))
        return x

    level = read(jax.make_jaxpr(twice)(draw(6, 5, 32)), platform)
    assert ("transition" in {equation.name for equation in level.equations}) == (platform == "cuda")
    found = residual_streams(level, 1)
    assert len(found) == 2 and found[1] is level.outputs[0]


def test_a_residual_stream_goes_on_in_its_parts_and_on_other_devices():
    def body(x):
        x = lax.all_to_all(x, "p", split_axis=0, concat_axis=1, tiled=True)
        parts = [x + jnp.sin(x) for x in lax.split(x, [2, 2], axis=1)]
        return jnp.concatenate(parts, 1).T + 1.0

    level = read(jax.make_jaxpr(body, axis_env=[("p", 2)])(draw(8, 2)), "cpu")
    found = residual_streams(level, 1)
    assert [value.shape for value in found] == [(4, 2), (4, 2), (4, 4)]


EXCHANGES = {
    "all_to_all": (lambda x: lax.all_to_all(x, "p", split_axis=0, concat_axis=1, tiled=True), [2]),
    "all_to_all_in_place": (lambda x: lax.all_to_all(x, "p", split_axis=1, concat_axis=1, tiled=True), [0, 2]),
    "all_gather": (lambda x: lax.all_gather(x, "p", axis=1, tiled=True), [0, 2]),
    "all_gather_stacked": (lambda x: lax.all_gather(x, "p", axis=1), [0, 2, 3]),
    "reduce_scatter": (lambda x: lax.psum_scatter(x, "p", scatter_dimension=1, tiled=True), [0, 2]),
    "reduce_scatter_squeezed": (lambda x: lax.psum_scatter(x[:, :2], "p", scatter_dimension=1), [0, 1]),
    "psum": (lambda x: lax.psum(x, "p"), [0, 1, 2]),
    "pmax": (lambda x: lax.pmax(x, "p"), [0, 1, 2]),
    "ppermute": (lambda x: lax.ppermute(x, "p", [(0, 1), (1, 0)]), [0, 1, 2]),
}


@pytest.mark.parametrize("name", EXCHANGES)
def test_exchanges_are_cut_along_what_they_leave_alone(name):
    function, dims = EXCHANGES[name]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("p",))
    of_devices = jax.sharding.PartitionSpec("p")
    shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=of_devices, out_specs=of_devices, check_vma=False)
    x = draw(8, 4, 6)
    level = read(jax.make_jaxpr(function, axis_env=[("p", 2)])(x[:4]), "cpu")
    (output,) = level.outputs
    roots = list(options(level.equations[output.source], output))
    assert [root.dim for root in roots] == dims
    want = shard(function)(x)
    for root in roots:
        region = walk(level, [root], lambda value: value.source is None)
        placed = [Placed(Item(output.source, level.inputs, [output], region), 1)]
        plan = LevelPlan(level, placed, 0, 0.0, Scheduler(CPU).whole(level))
        got = jax.jit(shard(lambda x, plan=plan: evaluate(plan, [x])[0]))(x)
        np.testing.assert_allclose(got, want, 1e-6, 1e-6, err_msg=str(root))


def test_what_has_no_rule_is_a_barrier(monkeypatch):
    monkeypatch.delitem(RULES, "tanh")
    level = read(jax.make_jaxpr(lambda x: jnp.tanh(x))(X), "cpu")
    assert not list(options(level.equations[-1], level.outputs[0]))


def test_rules_can_be_taught(monkeypatch):
    monkeypatch.delitem(RULES, "tanh")
    monkeypatch.setattr(rules, "RULES", RULES)
    rules.register("tanh", Rule(lambda equation, window: [window]))
    level = read(jax.make_jaxpr(lambda x: jnp.tanh(x))(X), "cpu")
    assert len(list(options(level.equations[-1], level.outputs[0]))) == 3
