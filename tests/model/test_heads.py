"""Heads against the reference's, values and gradients, and in reduced precision."""

import haiku_state
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import untrained

from fastfold_jax.config import presets
from fastfold_jax.config.execution import Execution
from fastfold_jax.model import heads
from parallel.axis import Axis

NUM_RES, NUM_MSA = 9, 5
# Our class, the reference's class and configuration section, what it reads.
HEADS = {
    "distogram_head": (heads.DistogramHead, "DistogramHead", "distogram", "pair"),
    "masked_msa_head": (heads.MaskedMsaHead, "MaskedMsaHead", "masked_msa", "msa"),
    "predicted_lddt_head": (heads.PredictedLDDTHead, "PredictedLDDTHead", "predicted_lddt", "structure_module"),
    "predicted_aligned_error_head": (
        heads.PredictedAlignedErrorHead,
        "PredictedAlignedErrorHead",
        "predicted_aligned_error",
        "pair",
    ),
    "experimentally_resolved_head": (
        heads.ExperimentallyResolvedHead,
        "ExperimentallyResolvedHead",
        "experimentally_resolved",
        "single",
    ),
}


def representation(name: str) -> np.ndarray:
    shapes = {
        "pair": (NUM_RES, NUM_RES, 128),
        "msa": (NUM_MSA, NUM_RES, 256),
        "single": (NUM_RES, 384),
        "structure_module": (NUM_RES, 384),
    }
    return np.random.default_rng(1).standard_normal(shapes[name], dtype=np.float32)


@pytest.mark.parametrize("preset", ["model_1_ptm", "model_1_multimer_v3"])
@pytest.mark.parametrize("scope", HEADS)
def test_agrees_with_the_reference(preset, scope):
    hk = pytest.importorskip("haiku")
    modules = pytest.importorskip("alphafold.model.modules")
    config = pytest.importorskip("alphafold.model.config").model_config(preset)
    ours, theirs, section, reads = HEADS[scope]
    x = representation(reads)

    def run(x):
        head = getattr(modules, theirs)(config.model.heads[section], config.model.global_config)
        return head({reads: x}, batch=None, is_training=False)

    transformed = hk.without_apply_rng(hk.transform(run))
    params = haiku_state.draw(jax.eval_shape(transformed.init, jax.random.key(0), x))
    module = haiku_state.load(ours(presets.preset(preset), Execution()), params, scope)

    expected = transformed.apply(params, x)
    logits = module(x)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-5, atol=1e-5)
    for name, edges in (("bin_edges", heads.DISTOGRAM_EDGES), ("breaks", heads.ALIGNED_ERROR_BREAKS)):
        if name in expected:
            np.testing.assert_allclose(edges, expected[name], rtol=1e-6)

    weights = np.random.default_rng(2).standard_normal(logits.shape, dtype=np.float32)
    gradient = jax.grad(lambda x: jnp.sum(module(x) * weights))(x)
    reference_gradient = jax.grad(lambda x: jnp.sum(transformed.apply(params, x)["logits"] * weights))(x)
    np.testing.assert_allclose(gradient, reference_gradient, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scope", HEADS)
def test_logits_are_float32_whatever_the_activations(scope):
    ours, _, _, reads = HEADS[scope]
    module = untrained(ours(presets.preset("model_1_ptm"), Execution()))
    x = jnp.asarray(representation(reads), jnp.bfloat16)
    assert module(x).dtype == jnp.float32
    np.testing.assert_array_equal(module(x), module(x.astype(jnp.float32)))


def test_distogram_rows_on_several_devices_are_those_of_one():
    config, devices = presets.preset("model_1_ptm"), 3
    module = untrained(heads.DistogramHead(config, Execution()))
    module.half_logits.weights[...] = np.random.default_rng(0).standard_normal((128, 64), dtype=np.float32)
    axis = Axis("dap", devices)
    split = untrained(heads.DistogramHead(config, Execution(axis=axis)))
    split.half_logits = module.half_logits
    pair = representation("pair")
    # `vmap` with an axis name carries out the collectives, with no device but this one.
    rows = jax.vmap(split, axis_name=axis.name)(pair.reshape(devices, NUM_RES // devices, NUM_RES, 128))
    np.testing.assert_allclose(rows.reshape(NUM_RES, NUM_RES, 64), module(pair), rtol=1e-5, atol=1e-5)
