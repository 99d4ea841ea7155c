"""The training step: equal on any mesh, clipped by example, without effect where a gradient is not finite."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_stage import EXECUTION, STAGE, dataset, shared_step

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.training import OptimizerConfig
from fastfold_jax.data.labels import TrainingBatch
from fastfold_jax.losses.total import total_loss
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.recycling import init_prev
from fastfold_jax.training.optimizer import clip_each, learning_rate, make_optimizer, moving_average
from fastfold_jax.training.step import make_gradients, make_prediction, put_batch, start_state, whole
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


@pytest.fixture(scope="module")
def made(batch):
    """Makes one step of a drawn network: `(recycles, step number) -> (state before, state after, metrics)`."""
    mesh = make_mesh(devices=jax.devices()[:1])
    step = shared_step(STAGE, EXECUTION, mesh)

    @functools.cache
    def make(recycles: int, number: int):
        state = start_state(STAGE, 5, init_state(STAGE.model, 0, zero_final=False))
        state = jax.device_put(dataclasses.replace(state, step=jnp.int32(number)), whole(mesh))
        before = jax.tree.map(np.array, state)
        after, metrics = step(state, put_batch(dataclasses.replace(batch, num_recycles=np.int32(recycles)), mesh))
        return before, after, {name: float(value) for name, value in metrics.items()}

    make(0, 0)  # which compiles
    return make


@pytest.fixture(scope="module")
def one_pass():
    """One pass of one example, compiled: `(parameters, features, labels, prev, key) -> (loss, next prev)`."""
    apply = make_apply(STAGE.model, dataclasses.replace(EXECUTION, outputs="full"))

    @jax.jit
    def run(parameters, features, labels, prev, key):
        outputs, prev = apply(parameters, features, prev, key)
        return total_loss(outputs, features, labels, STAGE.loss).total, prev

    return run


def test_a_step_is_passes_one_after_another_each_with_its_own_dropout(batch, made, one_pass):
    """Chained by hand: the loss of the last pass, dropout drawn by step, example and pass, from what those before it
    leave."""
    losses = []
    for recycles, number in ((0, 0), (0, 1), (1, 1)):
        before, _, metrics = made(recycles, number)
        of_step = jax.random.fold_in(jax.random.wrap_key_data(before.key), number)
        expected = []
        for example in range(STAGE.batch_size):
            labels = jax.tree.map(lambda leaf, example=example: leaf[example], batch.labels)
            prev = init_prev(STAGE.crop_size, STAGE.model, EXECUTION)
            for place in range(1 - recycles, 2):
                features = jax.tree.map(lambda leaf, at=(example, place): leaf[at], batch.features)
                key = jax.random.fold_in(jax.random.fold_in(of_step, example), place)
                loss, prev = one_pass(before.parameters, features, labels, prev, key)
            expected.append(float(loss) * np.sqrt(features.seq_mask.sum()))
        assert metrics["loss"] == pytest.approx(np.mean(expected), rel=1e-3)
        losses.append(metrics["loss"])
    assert min(abs(one / other - 1) for one, other in itertools.combinations(losses, 2)) > 0.01, losses


def test_the_loss_of_a_step_is_the_weighted_sum_of_its_terms(batch, made):
    """With the stage's weights, and the square root of the residues (AlphaFold 2 supplement, 1.11.3)."""
    weights = {
        **{"backbone_fape": 0.5, "side_chain_fape": 0.5, "chi": 0.5, "angle_norm": 0.01, "distogram": 0.3},
        **{"masked_msa": 2.0, "lddt": 0.01, "aligned_error": 0.1, "resolved": 0.01, "violation": 1.0},
    }
    _, _, metrics = made(0, 0)
    terms = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    assert terms.keys() == weights.keys()
    (residues,) = {int(np.sum(mask)) for mask in batch.features.seq_mask[:, -1]}
    assert residues == STAGE.crop_size
    assert metrics["loss"] == pytest.approx(4.0 * sum(weights[name] * terms[name] for name in weights), rel=1e-5)


def test_a_step_moves_the_average_a_tenth_of_the_way_to_the_parameters(made):
    before, after, _ = made(0, 0)
    old, new, average = (jax.tree.leaves(tree) for tree in (before.average, after.parameters, after.average))
    assert sum(float(np.abs(one - other).sum()) for one, other in zip(old, new, strict=True)) > 0
    for began, moved, found in zip(old, new, average, strict=True):
        np.testing.assert_allclose(found, began + 0.1 * (np.asarray(moved) - began), atol=1e-7)


def test_nothing_is_dropped_in_validation_nor_in_a_stage_without_dropout(batch):
    """The programs draw no random numbers."""
    mesh = make_mesh(devices=jax.devices()[:1])
    parameters = jax.eval_shape(lambda: init_state(STAGE.model, 0))
    one = jax.tree.map(lambda leaf: leaf[:1], (batch.features, batch.labels))
    one = TrainingBatch(features=one[0], labels=one[1], num_recycles=batch.num_recycles)

    def draws(function, *arguments) -> bool:
        return "random_bits" in str(jax.make_jaxpr(function)(parameters, one, *arguments))

    key, quiet = jax.random.key(0), dataclasses.replace(STAGE, dropout=False)
    assert draws(lambda *_: jax.random.bernoulli(key))
    assert not draws(make_gradients(quiet, EXECUTION, mesh), key)
    assert not draws(make_prediction(STAGE, EXECUTION, mesh))


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


def test_adam_by_hand():
    """Two updates of one parameter, by the moments' own formulas (Kingma & Ba 2015, Algorithm 1)."""
    config = OptimizerConfig(learning_rate=0.5, warmup_steps=0, decay_after=None, beta1=0.5, beta2=0.75, epsilon=0.125)
    optimizer = make_optimizer(config)
    state, first, second = optimizer.init(jnp.zeros(())), 0.0, 0.0
    for count, gradient in enumerate((0.3, -0.2), start=1):
        update, state = optimizer.update(jnp.asarray(gradient), state)
        first, second = (first + gradient) / 2, 0.75 * second + 0.25 * gradient**2
        expected = -0.5 * (first / (1 - 0.5**count)) / (np.sqrt(second / (1 - 0.75**count)) + 0.125)
        assert float(update) == pytest.approx(expected, rel=1e-5)


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
