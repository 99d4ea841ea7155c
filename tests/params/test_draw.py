"""Untrained parameters: reproducible, of the scale that keeps activations alive, and made in a moment."""

import jax
import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.model.alphafold import abstract_state
from fastfold_jax.params import draw


def small(name: str):
    return preset(name, evoformer_blocks=2, extra_msa_blocks=1)


@pytest.mark.parametrize("name", ["model_1_ptm", "model_1_multimer_v3"])
def test_state_is_the_models_and_depends_on_the_seed_alone(name):
    first, again, other = (draw.random(small(name), seed) for seed in (1, 1, 2))
    like = abstract_state(small(name))
    assert jax.tree.structure(first) == jax.tree.structure(like)
    assert [leaf.shape for leaf in jax.tree.leaves(first)] == [leaf.shape for leaf in jax.tree.leaves(like)]
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))
    assert not all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other)))


@pytest.mark.parametrize(
    ("scope", "fan_in"),
    [
        ("evoformer.evoformer_iteration.msa_transition.transition2.weights", 1024),
        ("evoformer.evoformer_iteration.msa_column_attention.attention.query_w", 256),
        ("evoformer.evoformer_iteration.msa_column_attention.attention.output_w", 256),
        ("evoformer.evoformer_iteration.outer_product_mean.output_w", 1024),
        ("evoformer.input_embedder.preprocess_msa.weights", 49),
        ("structure_module.fold_iteration.invariant_point_attention.q_scalar_projection.weights", 384),
    ],
)
def test_weights_keep_the_variance_of_activations(scope, fan_in):
    leaf = draw.random(small("model_3"), seed=0)
    for name in scope.split("."):
        leaf = leaf[name]
    assert np.std(leaf[...]) * fan_in**0.5 == pytest.approx(1.0, rel=0.03)


def test_nothing_is_left_at_zero_but_biases():
    for path, value in jax.tree_util.tree_flatten_with_path(draw.random(small("model_1_multimer_v3"), seed=0))[0]:
        name = [step.key for step in path if isinstance(step, jax.tree_util.DictKey)][-1]
        assert np.any(np.asarray(value)) == (name not in ("bias", "offset", "output_b")), path
