"""Buckets: what padding costs, that it fits, and that padded features are masked out."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import random_raw

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.config.presets import PRESETS, preset
from fastfold_jax.data.batch import Features
from fastfold_jax.data.buckets import Shape, choose, pad, sampled_shape
from fastfold_jax.data.sampling import sample

SHALLOW_AND_DEEP = (1, 2, 3, 5, 9, 17, 33, 65, 100, 129, 200, 257, 400, 511, 513, 600, 1000, 3000, 10_000)


def _pairs_flops(num_res: int) -> float:
    """Triangle operations and pair transition of one Evoformer block."""
    return (393_216 + 329_728 + 262_144) * num_res**2 + (512 + 1024) * num_res**3


def _msa_flops(rows: int, num_res: int, channels: int) -> float:
    """MSA operations of a block with 8 heads in all, 256 channels where they are the Evoformer's."""
    share = channels / 256
    linear = (2 * 655_360 + 1_048_576) * share**2 + 32_768 * share
    return rows * num_res * (linear + (1024 * share + 2048) * num_res) + (2048 + 262_144) * num_res**2


def _pass_flops(shape: Shape, config: ModelConfig) -> float:
    """Matmul FLOPs of one pass's blocks; embedders and structure module are small beside them."""
    rows, num_res = shape.num_msa + shape.num_templates, shape.num_res
    column = 1024 * rows**2 * num_res
    main = _msa_flops(rows, num_res, config.c_m) + column + _pairs_flops(num_res)
    extra = _msa_flops(shape.num_extra_msa, num_res, config.c_e) + _pairs_flops(num_res)
    template = 393_216 / 2 * num_res**2 + _pairs_flops(num_res) / 4  # 64 channels; a little less, in truth
    return (
        config.evoformer_blocks * main
        + config.extra_msa_blocks * extra
        + config.template_blocks * shape.num_templates * template
    )


def _shape(config: ModelConfig, num_res: int, rows: int, templates: int) -> Shape:
    clusters = min(rows, config.num_clusters)
    return Shape(
        num_res=num_res,
        num_msa=clusters,
        num_extra_msa=min(rows - clusters, config.num_extra_msa),
        num_templates=templates,
    )


@pytest.mark.parametrize("name", ["model_1_ptm", "model_3_ptm", "model_5", "model_1_multimer", "model_1_multimer_v3"])
def test_padding_adds_few_flops(name):
    config = preset(name)
    added = []
    for num_res in range(32, 4097, 3):
        for rows in SHALLOW_AND_DEEP:
            templates = config.num_templates if "multimer" in name else (num_res + rows) % (config.num_templates + 1)
            exact = _shape(config, num_res, rows, templates)
            added.append(_pass_flops(choose(exact, config), config) / _pass_flops(exact, config) - 1)
    assert np.mean(added) <= 0.10
    assert max(added) <= 0.25


def test_few_shapes():
    config = preset("model_1_ptm")
    deep = {choose(_shape(config, num_res, 20_000, 4), config) for num_res in range(32, 1025)}
    assert len(deep) <= 82
    at_one_length = {choose(_shape(config, 300, rows, 0), config) for rows in range(1, 20_001)}
    assert len(at_one_length) <= 60


_SHAPES = st.builds(
    Shape,
    num_res=st.integers(1, 5000),
    num_msa=st.integers(1, 508),
    num_extra_msa=st.integers(0, 1024),
    num_templates=st.integers(0, 4),
)


@given(_SHAPES, st.sampled_from([1, 2, 3, 8, 16]))
def test_buckets_hold_what_they_are_chosen_for(exact, multiple):
    config = preset("model_2")
    bucket = choose(exact, config, multiple=multiple)
    for size, fits in zip(dataclasses.astuple(bucket), dataclasses.astuple(exact), strict=True):
        assert size >= fits
    assert not any(size % multiple for size in (bucket.num_res, bucket.num_msa, bucket.num_extra_msa))
    assert bucket.num_extra_msa > 0
    assert (bucket.num_templates > 0) == (exact.num_templates > 0)
    if multiple != 3:  # the sizes are multiples of powers of two
        assert choose(bucket, config, multiple=multiple) == bucket
    most = -(-config.num_clusters // multiple) * multiple
    assert bucket.num_msa <= most


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_a_deep_alignment_gets_the_presets_own_sizes(config):
    bucket = choose(_shape(config, 256, 50_000, config.num_templates), config)
    assert bucket == Shape(
        num_res=256,
        num_msa=config.num_clusters,
        num_extra_msa=max(1, config.num_extra_msa),  # no row at all is one that is masked
        num_templates=config.num_templates,
    )


@given(st.integers(1, 30), st.integers(1, 60), st.integers(0, 5), st.booleans(), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_padding_is_zero_and_masked(num_res, rows, templates, is_multimer, ensemble, multiple):
    config = preset("model_1_multimer_v3" if is_multimer else "model_1", num_msa=20, num_extra_msa=30)
    config = dataclasses.replace(config, num_ensemble=ensemble)
    raw = random_raw(np.random.default_rng(0), num_res, rows, num_templates=templates)
    exact = sampled_shape(raw, config)
    assert choose(raw, config, multiple=multiple) == choose(exact, config, multiple=multiple)
    shape = choose(raw, config, multiple=multiple)
    features = sample(raw, config, seed=0, pass_index=0)
    assert features.msa_mask.shape[-2:] == (exact.num_msa, exact.num_res)
    assert features.extra_msa.shape[-2] == exact.num_extra_msa and len(features.template_mask) == exact.num_templates
    padded = pad(features, shape)
    assert padded.msa_feat.shape[-3:] == (shape.num_msa, shape.num_res, 49)
    assert padded.extra_msa_mask.shape[-2:] == (shape.num_extra_msa, shape.num_res)
    assert padded.template_all_atom_positions.shape == (shape.num_templates, shape.num_res, 37, 3)
    for field in dataclasses.fields(Features):
        before, after = getattr(features, field.name), getattr(padded, field.name)
        assert before.dtype == after.dtype
        inside = tuple(slice(0, size) for size in before.shape)
        np.testing.assert_array_equal(after[inside], before, err_msg=field.name)
        outside = np.ones(after.shape, bool)
        outside[inside] = False
        assert not after[outside].any(), field.name
    assert not padded.asym_id[num_res:].any() and not padded.seq_mask[num_res:].any()


def test_features_that_do_not_fit_are_refused():
    config = preset("model_3", num_msa=8)
    raw = random_raw(np.random.default_rng(0), 9, 3)
    features = sample(raw, config, seed=0, pass_index=0)
    with pytest.raises(ValueError, match=r"aatype of shape \(9,\) does not fit into \(8,\)"):
        pad(features, Shape(num_res=8, num_msa=8, num_extra_msa=1, num_templates=0))


def test_max_msa_bounds_the_shape():
    config = preset("model_3_ptm", num_msa=32, num_extra_msa=64)
    raw = random_raw(np.random.default_rng(0), 40, 300)
    assert choose(raw, config) == Shape(num_res=40, num_msa=32, num_extra_msa=64, num_templates=0)
