"""The training step: equal on any mesh, clipped by example, without effect where a gradient is not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stage import EXECUTION, STAGE, dataset, shared_step

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.training import OptimizerConfig
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.training.optimizer import clip_each, learning_rate, moving_average
from fastfold_jax.training.step import make_gradients, put_batch, start_state, whole
from parallel import make_mesh

FLOAT32 = Execution(precision="float32")


def gradients(batch, *, data: int, dap: int):
    mesh = make_mesh(data=data, dap=dap, devices=jax.devices()[: data * dap])
    # The heads that judge the structure are taught bins: one distance within rounding of an edge is another label.
    # tests/losses compares them, on equal structures.
    stage = dataclasses.replace(STAGE, loss=dataclasses.replace(STAGE.loss, aligned_error=0.0, lddt=0.0))
    state = jax.device_put(init_state(stage.model, 0, zero_final=False), whole(mesh))
    compute = jax.jit(make_gradients(stage, FLOAT32, mesh))
    found, metrics = compute(state, put_batch(batch, mesh), jax.random.key(3))
    return jax.tree.map(np.asarray, found), {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def batch(index):
    batch, _ = dataset(index, STAGE).batch(0)
    return dataclasses.replace(batch, num_recycles=np.int32(1))


@pytest.fixture(scope="module")
def alone(batch):
    return gradients(batch, data=1, dap=1)


def test_eight_devices_make_the_gradient_of_one(batch, alone):
    """Data 2 x DAP 4, dropout, recycling and clipping included; the norm before clipping is among the metrics."""
    expected, metrics = alone
    found, shared_metrics = gradients(batch, data=2, dap=4)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 0
    worst = {}
    for (path, one), eight in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        scale = max(np.abs(one).max(), 1e-4 * largest)
        worst[jax.tree_util.keystr(path)] = float(np.abs(one - eight).max() / scale)
    assert max(worst.values()) < 1e-3, sorted(worst.items(), key=lambda item: -item[1])[:5]
    for name, value in metrics.items():
        if name not in ("loss/aligned_error", "loss/lddt"):
            assert shared_metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_each_example_is_clipped_before_the_mean(alone):
    """Two large gradients of different directions: clipped to 0.1 each, their mean is shorter than that."""
    gradient, metrics = alone
    assert metrics["gradient_norm"] > 1.0
    total = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))))
    assert 0.01 < total < 0.0999


def test_clipping_of_each():
    gradient = {"a": jnp.array([[3.0, 0.0], [0.03, 0.0]]), "b": jnp.array([[4.0], [0.04]])}
    clipped, norm = clip_each(gradient, 0.1)
    np.testing.assert_allclose(norm, [5.0, 0.05], rtol=1e-6)
    np.testing.assert_allclose(clipped["a"], [[0.06, 0.0], [0.03, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(clipped["b"], [[0.08], [0.04]], rtol=1e-5)


def test_schedule_and_moving_average():
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=10, decay_after=100, decay=0.95)
    rate = learning_rate(config)
    assert float(rate(0)) == pytest.approx(1e-4)
    assert float(rate(9)) == float(rate(99)) == pytest.approx(1e-3)
    assert float(rate(100)) == pytest.approx(0.95e-3)
    assert float(learning_rate(dataclasses.replace(config, warmup_steps=0))(0)) == pytest.approx(1e-3)
    assert float(moving_average(jnp.float32(1.0), jnp.float32(2.0), 0.9)) == pytest.approx(1.1)


def test_a_step_without_finite_gradient_changes_counters_only(index, one_device):
    mesh = make_mesh(devices=one_device)
    step = shared_step(STAGE, EXECUTION, mesh)
    batch, _ = dataset(index, STAGE).batch(0)
    state = jax.device_put(start_state(STAGE, 0), whole(mesh))
    before = jax.tree.map(np.array, state)
    broken = dataclasses.replace(batch.labels, atom_positions=np.full_like(batch.labels.atom_positions, np.nan))
    state, metrics = step(state, put_batch(dataclasses.replace(batch, labels=broken), mesh))
    assert metrics["skipped"] == 1 and int(state.skipped) == int(state.skipped_in_a_row) == int(state.step) == 1
    for name in ("parameters", "average", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    state, metrics = step(state, put_batch(batch, mesh))
    assert metrics["skipped"] == 0 and int(state.skipped) == 1 and int(state.skipped_in_a_row) == 0
    moved = jax.tree.map(lambda new, old: np.any(np.asarray(new) != old), state.parameters, before.parameters)
    assert any(jax.tree.leaves(moved))
