"""The table of differences between state and file: each rearrangement against what DeepMind's modules compute."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fastfold_jax.config.presets import PRESETS
from fastfold_jax.params.layout import POINTS, SAME, SCALARS, SIDE_BY_SIDE, entries

CHANNELS, HEADS, KEYS, VALUES = 5, 3, 4, 8


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def keys_of(leaf: str, model: str) -> list[str]:
    (entry,) = entries([tuple(leaf.split("."))], PRESETS[model])
    return list(entry.keys)


def test_scalars_are_split_as_the_monomer_splits_its_activations():
    weights, x = normal(CHANNELS, HEADS * (KEYS + VALUES)), normal(2, CHANNELS)
    shapes = [(CHANNELS, HEADS, KEYS), (CHANNELS, HEADS, VALUES)]
    key, value = SCALARS.to_state([weights], shapes)
    expected = (x @ weights).reshape(2, HEADS, KEYS + VALUES)
    np.testing.assert_allclose(np.einsum("nc,chk->nhk", x, key), expected[..., :KEYS], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.einsum("nc,chk->nhk", x, value), expected[..., KEYS:], rtol=1e-4, atol=1e-5)


def test_points_are_split_as_the_monomer_splits_its_activations():
    weights, x = normal(CHANNELS, 3 * HEADS * (KEYS + VALUES)), normal(2, CHANNELS)
    shapes = [(CHANNELS, HEADS, 3 * KEYS), (CHANNELS, HEADS, 3 * VALUES)]
    key, value = POINTS.to_state([weights], shapes)
    x_y_z = [part.reshape(2, HEADS, KEYS + VALUES) for part in np.split(x @ weights, 3, axis=-1)]
    ours_key = np.split(np.einsum("nc,chk->nhk", x, key), 3, axis=-1)  # the multimer's module splits per head
    ours_value = np.split(np.einsum("nc,chk->nhk", x, value), 3, axis=-1)
    for axis in range(3):
        np.testing.assert_allclose(ours_key[axis], x_y_z[axis][..., :KEYS], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours_value[axis], x_y_z[axis][..., KEYS:], rtol=1e-4, atol=1e-5)


@given(
    heads=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    leading=st.lists(st.integers(1, 3), max_size=2),
    blocks=st.sampled_from([1, 3]),
)
def test_heads_are_put_back_exactly(heads, sizes, leading, blocks):
    transform = {1: SCALARS, 3: POINTS}[blocks]
    array = normal(*leading, blocks * heads * sum(sizes))
    shapes = [(*leading, heads, blocks * size) for size in sizes]
    leaves = transform.to_state([array], shapes)
    assert [leaf.shape for leaf in leaves] == shapes
    (again,) = transform.to_file(leaves)
    assert again.tobytes() == array.tobytes()
    assert again.shape == array.shape


def test_halves_are_left_then_right():
    left, right = normal(2, 4), normal(2, 4) + 1
    (together,) = SIDE_BY_SIDE.to_state([left, right], [(2, 8)])
    np.testing.assert_array_equal(together, np.concatenate([left, right], axis=-1))
    for again, array in zip(SIDE_BY_SIDE.to_file([together]), (left, right), strict=True):
        np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize(
    ("leaf", "model", "expected"),
    [
        (
            "evoformer.input_embedder.relative_encoding.pair_activiations.bias",
            "model_1",
            "evoformer/pair_activiations//bias",
        ),
        (
            "evoformer.input_embedder.relative_encoding.position_activations.bias",
            "model_1_multimer_v3",
            "evoformer/~_relative_encoding/position_activations//bias",
        ),
        ("evoformer.input_embedder.left_single.bias", "model_1", "evoformer/left_single//bias"),
        ("distogram_head.half_logits.weights", "model_3", "distogram_head/half_logits//weights"),
        ("x.outer_product_mean.left_projection.bias", "model_1", "x/outer_product_mean/left_projection//bias"),
        ("x.fold_iteration.quat_rigid.rigid.bias", "model_1", "x/fold_iteration/affine_update//bias"),
        ("x.fold_iteration.quat_rigid.rigid.bias", "model_1_multimer", "x/fold_iteration/quat_rigid/rigid//bias"),
        (
            "x.template_pair_stack.pair_transition.transition1.bias",
            "model_1",
            "x/template_pair_stack/__layer_stack_no_state/pair_transition/transition1//bias",
        ),
    ],
)
def test_single_keys(leaf, model, expected):
    assert keys_of(leaf, model) == [f"alphafold/alphafold_iteration/{expected}"]


@pytest.mark.parametrize("model", ["model_1", "model_3_ptm", "model_1_multimer", "model_1_multimer_v2"])
def test_triangles_are_split_in_older_files(model):
    scope = "alphafold/alphafold_iteration/e/triangle_multiplication_incoming"
    assert keys_of("e.triangle_multiplication_incoming.gate.bias", model) == [
        f"{scope}/left_gate//bias",
        f"{scope}/right_gate//bias",
    ]
    assert keys_of("e.triangle_multiplication_incoming.center_norm.scale", model) == [
        f"{scope}/center_layer_norm//scale"
    ]


def test_keys_and_values_make_one_entry_in_either_order():
    attention = ("structure_module", "fold_iteration", "invariant_point_attention")
    leaves = [(*attention, f"{which}_scalar_projection", "weights") for which in "kv"]
    for order in (leaves, leaves[::-1]):
        (entry,) = entries(order, PRESETS["model_1"])
        assert entry.leaves == tuple(leaves)
        assert entry.keys[0].endswith("invariant_point_attention/kv_scalar//weights")
    assert [entry.transform for entry in entries(leaves, PRESETS["model_1_multimer"])] == [SAME, SAME]
