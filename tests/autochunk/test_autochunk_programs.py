"""Random programs: in chunks as whole, values and gradients, and within the budget or refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from budgets import budget_of, chunk
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from fastfold_jax.autochunk.api import BudgetError

LENGTHS = (6, 7, 12)
# Compiling takes most of the time: what fails is reported as it is, not made smaller first.
SETTINGS = settings(
    deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate], database=None
)


def _unary(x, choice):
    functions = (
        lambda v: jnp.tanh(v),
        lambda v: v * 0.5 + 1,
        lambda v: jax.nn.relu(v),
        lambda v: jax.nn.silu(v),
        lambda v: jnp.where(v > 0, v, 0.1 * v),
        lambda v: jnp.clip(v, -1, 1),
        lambda v: v.astype(jnp.bfloat16).astype(jnp.float32),
    )
    return functions[choice % len(functions)](x)


def _norm(x, choice):
    axis = choice % x.ndim
    centred = x - jnp.mean(x, axis, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, axis, keepdims=True) + 0.1)


def _mix(x, choice):
    """Primitives that mix elements along one dimension."""
    axis = choice % x.ndim
    functions = (
        lambda: jax.nn.softmax(x, axis),
        lambda: jnp.cumsum(x, axis) / 10,
        lambda: lax.rev(x, (axis,)),
        lambda: jnp.sort(x, axis),
        lambda: jnp.concatenate([lax.slice_in_dim(x, 1, None, axis=axis), lax.slice_in_dim(x, 0, 1, axis=axis)], axis),
        lambda: (
            jnp.take(x, jnp.array([0, 2, 1, 3]), axis=axis)
            .repeat(2, axis)[tuple(slice(0, n) for n in x.shape)]
            .sum(axis, keepdims=True)
            + x
        ),
        lambda: jnp.multiply(*lax.sort((x, jnp.sin(x)), dimension=axis, num_keys=1)),
    )
    return functions[choice // 7 % len(functions)]()


def _shape(x, choice):
    functions = (
        lambda: jnp.swapaxes(x, 0, -1),
        lambda: jnp.moveaxis(x, 0, -1),
        lambda: x.reshape(-1, x.shape[-1]),
        lambda: jnp.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)),
        lambda: x.at[0].add(1.0),
        lambda: x + lax.broadcasted_iota(jnp.float32, x.shape, choice % x.ndim) / 10,
        lambda: jnp.stack([x, x * 2], choice % x.ndim).sum(choice % x.ndim),
    )
    return functions[choice % len(functions)]()


def _attend(x, choice):
    """Products of a value with itself over each of its dimensions, and back."""
    x = x.reshape(-1, *x.shape[-2:]) if x.ndim > 3 else x[None] if x.ndim == 2 else x
    scores = jnp.einsum(("bqd,bkd->bqk", "bdq,bdk->bqk", "qbd,kbd->bqk")[choice % 3], x, x) / 4
    weights = jax.nn.softmax(scores + jnp.mean(scores, 0), -1)
    return jnp.einsum("bqk,bkd->bqd" if choice % 3 == 0 else "bqk,bkd->bkq", weights, jnp.ones((*weights.shape[:2], 5)))


def _update(x, choice):
    """What residual blocks do."""
    inner = _norm(x, choice)
    if choice % 2 and x.ndim >= 2:
        product = jnp.einsum("...qd,...kd->...qk", inner, inner) / 8
        return x + jnp.einsum("...qk,...kd->...qd", jax.nn.softmax(product, -1), inner)
    weights = jnp.cos(jnp.arange(x.shape[-1] * 24, dtype=jnp.float32)).reshape(x.shape[-1], 24)
    return x + jax.nn.relu(inner @ weights) @ weights.T / 24


def _control(x, choice):
    functions = (
        lambda: lax.scan(lambda c, k: (_update(c, choice) + k, c.sum()), x, jnp.arange(2.0))[0],
        lambda: lax.cond(jnp.sum(x) > choice, lambda v: _update(v, 1), lambda v: _update(v, 0), x),
        lambda: jax.checkpoint(lambda v: _update(v, choice))(x),
        lambda: jax.jit(lambda v: _update(v, choice))(x),
        lambda: _smoothed(x),
    )
    return functions[choice % len(functions)]()


@jax.custom_jvp
def _smoothed(x):
    return jnp.abs(x) + jnp.sum(x, -1, keepdims=True) / 9


_smoothed.defjvp(lambda primals, tangents: (_smoothed(*primals), jnp.sign(primals[0]) * tangents[0] * 2))

STEPS = (_unary, _norm, _mix, _shape, _attend, _update, _update, _control)
program_steps = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 60), st.integers(0, 3)), min_size=1, max_size=6
)


def _program(steps, x):
    values = [x]
    for kind, choice, back in steps:
        source = values[max(0, len(values) - 1 - back)]
        made = STEPS[kind](source, choice)
        if made.size > 4000:
            made = made.sum(0)
        values.append(made if made.ndim >= 2 else jnp.outer(made, jnp.arange(5.0)))
    return values[-1], sum(jnp.mean(v) for v in values), jnp.max(values[len(values) // 2])


def _loss(function, steps, x):
    return sum(jnp.sum(jnp.sin(out)) for out in function(x))


@settings(SETTINGS, max_examples=15)
@given(
    steps=program_steps,
    shape=st.lists(st.sampled_from(LENGTHS), min_size=2, max_size=3),
    share=st.sampled_from((0.75, 0.4, 0.2, 0.05)),
)
def test_random_programs_give_the_same_in_chunks(steps, shape, share):
    x = jax.random.normal(jax.random.key(0), shape)
    function = functools.partial(_program, steps)
    budget = budget_of(function, [x], share)
    chunked = chunk(function, budget)
    try:
        plan = chunked.explain(x)
    except BudgetError as error:
        assert error.smallest > budget
        if error.smallest >= budget_of(function, [x], 1):
            return
        chunked = chunk(function, error.smallest)
        plan = chunked.explain(x)
        budget = error.smallest
    assert plan.after <= budget
    for got, want in zip(jax.jit(chunked)(x), jax.jit(function)(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@settings(SETTINGS, max_examples=5)
@given(
    steps=st.lists(st.tuples(st.sampled_from((0, 1, 3, 4, 5, 7)), st.integers(0, 60), st.just(0)), max_size=3),
    shape=st.lists(st.sampled_from(LENGTHS), min_size=2, max_size=3),
)
def test_gradients_are_the_same_in_chunks(steps, shape):
    x = jax.random.normal(jax.random.key(1), shape)
    function = functools.partial(_program, steps)
    whole = jax.grad(lambda x: _loss(function, steps, x))
    want = jax.jit(whole)(x)
    for form in (
        lambda budget: chunk(whole, budget),
        lambda budget: jax.grad(lambda x: _loss(chunk(function, budget), steps, x)),
    ):
        got = _in_little(form, budget_of(whole, [x], 0.2), x)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def _in_little(form, budget, x):
    """The result within the budget, or the smallest that can be met, of the derivative too if it has its own."""
    for _ in range(3):
        try:
            return jax.jit(form(budget))(x)
        except BudgetError as error:
            assert error.smallest > budget
            budget = error.smallest
    return jax.jit(form(budget))(x)
