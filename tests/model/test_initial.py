"""Untrained parameters: reproducible, of the scale that keeps activations alive, and made in a moment."""

import jax
import numpy as np
import pytest
from flax import nnx

from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import abstract_state, init_state


def small(name: str):
    return preset(name, evoformer_blocks=2, extra_msa_blocks=1)


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_state_is_the_models_and_depends_on_the_seed_alone(name):
    first, again, other = (init_state(small(name), seed, zero_final=False) for seed in (1, 1, 2))
    like = abstract_state(small(name))
    assert jax.tree.structure(first) == jax.tree.structure(like)
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [leaf.shape for leaf in jax.tree.leaves(like)]
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    assert not all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))


@pytest.mark.parametrize(
    ("scope", "fan_in"),
    [
        ("evoformer.evoformer_iteration.msa_transition.transition2.weights", 1024),
        ("evoformer.evoformer_iteration.msa_column_attention.attention.output_w", 256),
        ("evoformer.evoformer_iteration.outer_product_mean.output_w", 1024),
        ("evoformer.input_embedder.preprocess_msa.weights", 49),
        ("structure_module.fold_iteration.invariant_point_attention.q_scalar_projection.weights", 384),
    ],
)
def test_weights_keep_the_variance_of_activations(scope, fan_in):
    leaf = init_state(small("model_3"), seed=0, zero_final=False)
    for name in scope.split("."):
        leaf = leaf[name]
    assert np.std(leaf[...]) * fan_in**0.5 == pytest.approx(1.0, rel=0.03)


def test_attention_starts_at_the_scale_of_haiku():
    """Whose fans of weights [256, 8, 32] are 256 * 8 and 256 * 32."""
    block = init_state(small("model_3"), seed=0)["evoformer"]["evoformer_iteration"]
    weights = block["msa_column_attention"]["attention"]["query_w"][...]
    assert np.std(weights) == pytest.approx((2 / (256 * 8 + 256 * 32)) ** 0.5, rel=0.01)


def test_no_weight_is_left_at_zero_when_asked():
    state = init_state(small("model_1_multimer_v3"), seed=0, zero_final=False)
    for path, variable in nnx.to_flat_state(state):
        if str(path[-1]).endswith(("weights", "_w")):
            assert np.any(np.asarray(variable[...])), path


def test_training_starts_from_the_identity():
    """Gates and last maps of branches are zero, all else is not."""
    block = init_state(small("model_1_ptm"), 0)["evoformer"]["evoformer_iteration"]
    attention, transition = block["msa_column_attention"]["attention"], block["pair_transition"]
    for zero in (attention["output_w"], attention["gating_w"], transition["transition2"]["weights"]):
        assert not np.any(zero[...])
    for one in (attention["gating_b"], block["triangle_multiplication_outgoing"]["gate"]["bias"]):
        assert np.all(one[...] == 1.0)
    for drawn in (attention["query_w"], transition["transition1"]["weights"]):
        assert np.any(drawn[...])
