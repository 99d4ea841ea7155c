"""Whole networks on 2, 4 and 8 devices give one device's predictions and gradients, at sizes that do not divide.

Every exchange is cut into slabs: two in the quick tests, three in the slow ones. The loss depends on all that
training's losses do.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import whole_model

pytestmark = pytest.mark.usefixtures("quick_compiles")
ROWS = 5


@functools.cache
def _step(config, devices, num_res, templates, remat, dropout):
    execution = dataclasses.replace(whole_model.EXECUTION, remat=remat)
    batch = whole_model.features(config, num_res=num_res, rows=ROWS, extra_rows=7, templates=templates)
    step = whole_model.step(config, devices, (ROWS, num_res), execution)
    return jax.device_get(
        step(
            whole_model.parameters(config),
            whole_model.padded(batch, devices),
            whole_model.previous(config, num_res, devices),
            jax.random.key(5) if dropout else None,
        )
    )


def _check(config, devices, templates, *, num_res=11, remat=False, dropout=False):
    """Predictions to 1e-4, gradients to 1e-3."""
    (want_loss, want), want_gradient = _step(config, 1, num_res, templates, False, dropout)
    (loss, parts), gradient = _step(config, devices, num_res, templates, remat, dropout)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-4, atol=1e-5)
    for name in want:
        largest = np.abs(want[name]).max()
        np.testing.assert_allclose(parts[name], want[name], rtol=1e-4, atol=1e-4 * largest, err_msg=name)
    # Some gradients vanish but for rounding, hence one scale for all.
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want_gradient))
    for got, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * scale)


def test_a_monomer():
    _check(whole_model.network("model_1_ptm"), 4, 1, num_res=7, remat=True, dropout=True)


def test_a_multimer():
    _check(whole_model.network("model_1_multimer_v3"), 4, 1, num_res=7)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize(
    ("name", "templates"), [("model_1_ptm", 3), ("model_5", 0), ("model_1_multimer_v3", 2), ("model_1_multimer", 0)]
)
def test_every_kind(name, templates, devices, remat, dropout):
    _check(whole_model.network(name), devices, templates, remat=remat, dropout=dropout)


@pytest.mark.slow
def test_an_ensemble():
    config = dataclasses.replace(whole_model.network("model_1_ptm"), num_ensemble=2)
    _check(config, 4, 2)
