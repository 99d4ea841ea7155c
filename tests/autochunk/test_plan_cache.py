"""Plans kept on disk: used again for the same program, and for no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budgets import Compiled, chunk
from jax import lax

from fastfold_jax.autochunk import api, cache, fit


def layers(x):
    def step(x, _):
        scores = jax.nn.softmax(x @ x.T, -1)
        return x + scores @ x, scores.max()

    return lax.scan(step, x, None, length=3)


@pytest.fixture
def folder(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    return tmp_path / "autochunk"


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (96, 8))


def chunked(budget):
    return chunk(layers, budget)


def test_a_kept_plan_is_used_and_gives_the_same(folder, x, monkeypatch):
    first = chunked(60_000)
    plan, want = first.explain(x), jax.jit(first)(x)
    assert plan.regions and len(list(folder.glob("*.json"))) == 1

    def forbidden(self, budget):
        raise AssertionError("planned again")

    monkeypatch.setattr(api.Program, "planned", forbidden)
    again = chunked(60_000)
    assert again.explain(x) == plan
    for got, expected in zip(jax.tree.leaves(jax.jit(again)(x)), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(got, expected)
    for other, argument in ((chunked(70_000), x), (chunked(60_000), x[:90]), (chunked(60_000), x.astype(jnp.bfloat16))):
        with pytest.raises(AssertionError, match="planned again"):
            other.explain(argument)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"plan": {"placed": [{}]}, "budget": 3}'])
def test_a_damaged_plan_is_made_again(folder, x, damage, caplog):
    plan = chunked(60_000).explain(x)
    (file,) = folder.glob("*.json")
    file.write_text(damage)
    assert chunked(60_000).explain(x) == plan
    assert "planning again" in caplog.text


def test_without_a_directory_nothing_is_kept(x):
    jax.config.update("jax_compilation_cache_dir", None)
    assert cache.directory() is None
    assert chunked(60_000).explain(x).regions


def test_a_smaller_budget_that_proved_right_is_kept(folder):
    asked = []

    def build(budget):
        asked.append(budget)
        return Compiled(int(budget * 1.1))

    fit.within(1000, build, name="a plan")
    assert len(asked) == 2
    smaller = asked.pop()
    asked.clear()
    fit.within(1000, build, name="a plan")
    assert asked == [smaller]
    fit.within(1000, build, name="another plan")
    assert len(asked) == 3


def test_plans_have_names_that_outlast_the_process(folder, x):
    first, again, other = chunked(60_000), chunked(60_000), chunked(70_000)
    for function in (first, again, other):
        function.explain(x)
    assert first.names == again.names != other.names
