"""The whole network on a GPU, kernels on against kernels off: outputs, and gradients of all parameters."""

import dataclasses

import draws
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.recycling import init_prev

pytestmark = pytest.mark.gpu

NUM_RES, ROWS, EXTRA_ROWS = 131, 37, 70


def _setup(name, **options):
    """(configuration of a network two blocks deep, its parameters, features)."""
    config = dataclasses.replace(preset(name), evoformer_blocks=2, extra_msa_blocks=2)
    templates = config.num_templates
    features = draws.features(
        0, num_res=NUM_RES, rows=ROWS, extra_rows=EXTRA_ROWS, templates=templates, masked=True, **options
    )
    return config, init_state(config, 0, zero_final=False), jax.device_put(features)


def _outputs(config, state, features, execution):
    prev = init_prev(NUM_RES, config, execution)
    return jax.jit(make_apply(config, execution))(state, features, prev, None)[0]


@pytest.mark.parametrize("name", ["model_1_ptm", "model_3_ptm"])
@pytest.mark.parametrize("kernels", ["auto", "triton", "triton_atomic"])
def test_outputs(name, kernels):
    config, state, features = _setup(name)
    on, off = (
        _outputs(config, state, features, Execution(precision="float32", outputs="full", kernels=choice))
        for choice in (kernels, "xla")
    )
    exists = np.asarray(features.seq_mask) > 0
    for logits in ("distogram", "lddt", "masked_msa"):
        got, want = (np.asarray(getattr(side.full, logits), np.float64) for side in (on, off))
        assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want), logits
    shift = np.abs(np.asarray(on.atom_positions) - np.asarray(off.atom_positions))[exists]
    assert shift.max() < 0.05, f"atoms moved {shift.max()} Å"


def test_gradients():
    config, state, features = _setup("model_3_ptm")

    def gradients(kernels):
        execution = Execution(precision="float32", outputs="full", kernels=kernels, remat=True)
        apply, prev = make_apply(config, execution), init_prev(NUM_RES, config, execution)

        def loss(state):
            full = apply(state, features, prev, None)[0].full
            return jnp.mean(jnp.sin(full.distogram)) + jnp.mean(jnp.sin(full.masked_msa))

        return jax.jit(jax.grad(loss))(state)

    for got, want in zip(*map(jax.tree.leaves, (gradients("triton"), gradients("xla"))), strict=True):
        scale = np.linalg.norm(np.asarray(want))
        assert np.linalg.norm(np.asarray(got) - np.asarray(want)) <= 1e-3 * scale + 1e-9
