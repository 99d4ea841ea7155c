"""What does not fit side by side runs one after the other, whatever XLA would do with what is independent."""

import jax
import jax.extend
import numpy as np
import pytest

from fastfold_jax.autochunk.api import Program, autochunk
from fastfold_jax.autochunk.program import read
from fastfold_jax.autochunk.target import CPU

ROWS = 256
SCORES = ROWS * ROWS * 4


def branches(*arrays):
    """Attention of each array with itself: none needs another."""
    return [jax.nn.softmax(x @ x.T, -1) @ x for x in arrays]


@pytest.fixture
def arrays():
    return [jax.random.normal(jax.random.key(i), (rows, 8)) for i, rows in enumerate((ROWS, ROWS, 4 * ROWS))]


def beside_arguments(arrays, size):
    return sum(x.nbytes for x in arrays) + int(size)


def planned(arrays, size):
    program = Program(read(jax.make_jaxpr(branches)(*arrays), CPU.platform), CPU, [False] * len(arrays))
    return program.planned(beside_arguments(arrays, size)).plan


def barriers(arrays, size):
    """How often one thing waits for another, besides what loops need."""
    chunked = autochunk(branches, beside_arguments(arrays, size), float("inf"), target=CPU)
    got = chunked(*arrays)
    for one, other in zip(got, branches(*arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    return str(jax.make_jaxpr(chunked)(*arrays)).count("optimization_barrier")


def test_what_does_not_fit_side_by_side_waits(arrays):
    """Scores and their exponentials take twice `SCORES` at once: the second waits, and the third, in chunks, too."""
    plan = planned(arrays, 2.5 * SCORES)
    large = [entry for entry in plan.placed if entry.bytes > SCORES]
    assert [entry.chunked for entry in large] == [False, False, True]
    assert [entry.waits for entry in large] == [False, True, True]
    assert barriers(arrays, 2.5 * SCORES) == 2


def test_what_fits_side_by_side_does_not_wait(arrays):
    """The larger runs in chunks, of which each leaves room enough for the other."""
    plan = planned(arrays[1:], 7.5 * SCORES)
    assert plan.chunked and not any(entry.waits for entry in plan.placed)
    assert barriers(arrays[1:], 7.5 * SCORES) == 0


def test_items_between_two_waits_fit_at_once(arrays):
    for size in np.linspace(1.2, 30, 8) * SCORES:
        plan, together, before = planned(arrays, size), 0, 0
        for entry in plan.placed:
            own = max(0, entry.alive - before) + entry.bytes
            together = own + (before if entry.waits else together)
            assert together <= size or entry.waits or entry is plan.placed[0]
            before = entry.alive


def test_what_was_overwritten_is_not_waited_for():
    """Else XLA would keep a copy of it."""

    def stream(x, first, second):
        for _ in range(6):
            x = x + jax.nn.relu(x @ first) @ second
        return x

    shapes = (4 * ROWS, 64), (64, 4 * ROWS), (4 * ROWS, 64)
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    traced = jax.make_jaxpr(autochunk(stream, beside_arguments(arrays, 20 * SCORES), target=CPU))(*arrays)
    (chunked,) = traced.eqns
    equations = chunked.params["call_jaxpr"].eqns
    kinds = [equation.primitive.name for equation in equations]
    overwritten: set[jax.extend.core.Var] = set()
    for equation in equations:
        variables = [v for v in equation.invars if isinstance(v, jax.extend.core.Var)]
        assert not overwritten.intersection(variables), equation
        if equation.primitive.name == "scan":
            overwritten.update(variables[equation.params["num_consts"] :])
    # A loop that does not wait, on what another made, and behind both one that does.
    assert kinds.count("scan") == 6 and "optimization_barrier" in kinds[-4:]
