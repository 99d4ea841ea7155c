"""Whole networks on 2, 4 and 8 devices give one device's predictions and gradients, at sizes that do not divide."""

import dataclasses

import jax
import numpy as np
import pytest
import whole_model

ROWS, RESIDUES = 5, 11


def _features(config, templates):
    return whole_model.features(config, num_res=RESIDUES, rows=ROWS, extra_rows=7, templates=templates)


def _check_gradients(config, devices, templates=0, *, remat=False, dropout=False, tolerance=1e-3):
    execution = dataclasses.replace(whole_model.EXECUTION, remat=remat)
    batch, state = _features(config, templates), whole_model.parameters(config)
    key = jax.random.key(5) if dropout else None
    values = {}
    for count in (1, devices):
        step = jax.jit(jax.value_and_grad(whole_model.loss(config, count, (ROWS, RESIDUES), execution)))
        values[count] = step(state, whole_model.padded(batch, count), key)
    np.testing.assert_allclose(values[devices][0], values[1][0], rtol=1e-4, atol=1e-5)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(values[1][1]))
    for got, want in zip(jax.tree.leaves(values[devices][1]), jax.tree.leaves(values[1][1]), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=1e-5 * scale)


def _check_values(config, devices, templates=0):
    batch, state = _features(config, templates), whole_model.parameters(config)
    found = {}
    for count in (1, devices):
        outputs = jax.jit(whole_model.passes(config, count))(state, whole_model.padded(batch, count))
        found[count] = whole_model.cut(jax.device_get(outputs), ROWS, RESIDUES)
    for name, want in found[1].items():
        np.testing.assert_allclose(found[devices][name], want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize(
    ("name", "devices", "templates"),
    [("model_1_ptm", 4, 1), ("model_1_multimer_v3", 2, 3)],
)
def test_predictions(name, devices, templates):
    _check_values(whole_model.network(name), devices, templates)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize(("name", "templates"), [("model_1_ptm", 4), ("model_5", 0), ("model_1_multimer_v3", 3)])
def test_predictions_of_every_kind(name, templates, devices):
    _check_values(whole_model.network(name), devices, templates)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize(("name", "templates"), [("model_1_ptm", 2), ("model_1_multimer_v3", 1)])
def test_gradients_of_every_kind(name, templates, devices, remat, dropout):
    _check_gradients(whole_model.network(name), devices, templates, remat=remat, dropout=dropout)
