"""Sampling: what it guarantees, how often it masks, and its features against the reference's."""

import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import random_raw

from fastfold_jax.config.presets import preset
from fastfold_jax.data.batch import Features
from fastfold_jax.data.clusters import Rows
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.raw import one_hot
from fastfold_jax.data.sampling import draw_rows, mask_letters, sample, squash_deletions

MONOMER = preset("model_1_ptm", num_msa=16, num_extra_msa=20)
MULTIMER = preset("model_1_multimer_v3", num_msa=12, num_extra_msa=20)
CONFIGS = [MONOMER, MULTIMER]


def _leaves(features: Features) -> dict[str, np.ndarray]:
    return {field.name: getattr(features, field.name) for field in dataclasses.fields(features)}


def _rows_of(array: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in array}


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 6), st.sampled_from(CONFIGS), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_shapes_types_and_masks(num_rows, num_res, num_templates, config, seed):
    raw = random_raw(np.random.default_rng(seed), num_res, num_rows, num_templates=num_templates)
    features = sample(raw, config, seed=seed, pass_index=1)
    clusters = min(num_rows, 12)
    extra = min(num_rows - clusters, 20)
    templates = 4 if config is MULTIMER else min(num_templates, 4)
    expected = {
        "msa_feat": ((clusters, num_res, 49), np.float32),
        "msa_mask": ((clusters, num_res), np.float32),
        "extra_msa": ((extra, num_res), np.int8),
        "extra_deletion_value": ((extra, num_res), np.float32),
        "extra_msa_mask": ((extra, num_res), np.float32),
        "template_aatype": ((templates, num_res), np.int32),
        "template_all_atom_positions": ((templates, num_res, 37, 3), np.float32),
        "template_all_atom_mask": ((templates, num_res, 37), np.float32),
        "template_mask": ((templates,), np.float32),
        "seq_mask": ((num_res,), np.float32),
    } | dict.fromkeys(("aatype", "residue_index", "asym_id", "entity_id", "sym_id"), ((num_res,), np.int32))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in _leaves(features).items()} == expected
    assert set(np.unique(features.msa_mask)) <= {0, 1}
    assert features.template_mask.all()
    np.testing.assert_array_equal(features.msa_feat[..., :23].sum(-1), 1)
    assert ((features.extra_deletion_value >= 0) & (features.extra_deletion_value < 1)).all()


@pytest.mark.parametrize("config", CONFIGS, ids=["monomer", "multimer"])
def test_every_row_is_used_once_and_the_query_comes_first(config):
    raw = random_raw(np.random.default_rng(0), 25, 200)
    drawn = draw_rows(raw, config, (3, 0, 0))
    np.testing.assert_array_equal(drawn.true_msa[0], raw.msa[0])
    letters = np.concatenate([drawn.true_msa, drawn.others.letters])
    assert len(letters) == raw.num_rows and _rows_of(letters) == _rows_of(raw.msa)
    unmasked = ~drawn.masked
    np.testing.assert_array_equal(drawn.clusters.letters[unmasked], drawn.true_msa[unmasked])


def test_rows_without_anything_come_last_and_are_never_masked():
    raw = random_raw(np.random.default_rng(0), 10, 40)
    raw.msa_mask[5:30] = False
    drawn = draw_rows(raw, MULTIMER, (0, 0, 0))
    assert drawn.clusters.mask[:12].all()
    order = np.concatenate([drawn.clusters.mask, drawn.others.mask]).any(axis=1)
    np.testing.assert_array_equal(order, np.arange(40) < 15)
    assert not drawn.masked[~drawn.clusters.mask].any()


def test_clusters_are_drawn_uniformly():
    raw = random_raw(np.random.default_rng(0), 4, 31)
    raw.msa[:, 0], raw.msa[:, 1] = np.arange(31) % 20, np.arange(31) // 20  # tells rows apart
    times_drawn = np.zeros(31)
    for seed in range(600):
        true_msa = draw_rows(raw, MULTIMER, (seed, 0, 0)).true_msa
        times_drawn[true_msa[:, 0] + 20 * true_msa[:, 1]] += 1
    assert times_drawn[0] == 600
    expected = 600 * 11 / 30
    assert abs(times_drawn[1:] - expected).max() < 5 * np.sqrt(expected)


def test_masking_rates():
    """15 % of letters are touched; of these 10 % uniform, 10 % from the profile, 10 % kept, 70 % the mask letter."""
    rows, columns = 400, 500
    letters = np.full((rows, columns), 20, np.int8)
    counts = np.zeros((columns, 22), int)
    counts[:, 21] = 7  # the profile holds gaps only
    everything = Rows(letters=letters, deletions=np.zeros_like(letters), mask=np.ones(letters.shape, bool))
    touched, masked = mask_letters(everything, counts, Draws(5))
    total = letters.size
    assert abs(touched.mean() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / total)
    found = masked[touched]
    shares = {"mask": (found == 22).mean(), "profile": (found == 21).mean(), "same": (found == 20).mean()}
    shares["uniform"] = (found < 20).mean()
    for kind, share in {"mask": 0.7, "profile": 0.1, "same": 0.1, "uniform": 0.1}.items():
        assert abs(shares[kind] - share) < 4 * np.sqrt(share * (1 - share) / len(found)), kind
    amino_acids = np.bincount(found[found < 20], minlength=20)
    assert abs(amino_acids - amino_acids.mean()).max() < 5 * np.sqrt(amino_acids.mean())
    np.testing.assert_array_equal(masked[~touched], 20)


def test_profile_replacements_follow_the_columns():
    letters = np.zeros((20_000, 2), np.int8)
    counts = np.zeros((2, 22), int)
    counts[0, [3, 21]] = 1, 3
    counts[1, 20] = 1
    everything = Rows(letters=letters, deletions=np.zeros_like(letters), mask=np.ones(letters.shape, bool))
    _, masked = mask_letters(everything, counts, Draws(1))
    gaps, threes = (masked[:, 0] == 21).sum(), (masked[:, 0] == 3).sum()
    assert 180 < gaps < 270  # 20,000 x 0.15 x 0.1 x 3/4
    assert 60 < threes < 130  # a quarter of them, and 1/20 of the uniform ones
    assert not (masked[:, 1] == 21).any()


@pytest.mark.parametrize("config", CONFIGS, ids=["monomer", "multimer"])
def test_features_depend_on_the_seed_and_the_pass_alone(config):
    raw = random_raw(np.random.default_rng(0), 40, 300, num_templates=2)
    first, again = (_leaves(sample(raw, config, seed=7, pass_index=2)) for _ in range(2))
    for name, leaf in first.items():
        np.testing.assert_array_equal(leaf, again[name], err_msg=name)
    for seed, pass_index in ((8, 2), (7, 3)):
        other = sample(raw, config, seed=seed, pass_index=pass_index)
        assert (other.msa_feat != first["msa_feat"]).any() and (other.extra_msa != first["extra_msa"]).any()


def test_features_are_the_same_on_every_machine():
    """Recorded bits; a change of any of them changes what users get for the same seed."""
    msa = (np.arange(90 * 30).reshape(90, 30) ** 2 // 7 % 22).astype(np.int8)
    deletions = (np.arange(90 * 30).reshape(90, 30) % 17 == 3).astype(np.uint8) * 2
    raw = dataclasses.replace(random_raw(np.random.default_rng(0), 30, 90), msa=msa, deletions=deletions)
    digests = []
    for config in CONFIGS:
        features = sample(raw, config, seed=1, pass_index=2)
        leaves = (features.msa_feat, features.extra_msa, features.extra_deletion_value)
        digests.append(hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()[:16])
    assert digests == ["5c230937b78dcde7", "a7fca75ec7cdcb54"]


_ON_ONE_THREAD = """
import numpy as np, sys
from proteins import random_raw
from fastfold_jax.config.presets import preset
from fastfold_jax.data.sampling import sample
raw = random_raw(np.random.default_rng(0), 50, 700)
for model in ("model_3_ptm", "model_1_multimer_v3"):
    features = sample(raw, preset(model, num_msa=64), seed=3, pass_index=1)
    sys.stdout.write(str(hash(features.msa_feat.tobytes() + features.extra_msa.tobytes())))
"""


def test_features_do_not_depend_on_the_number_of_threads():
    outputs = set()
    for threads in ("1", "2"):
        pinned = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{threads}])\n"
        if not hasattr(os, "sched_setaffinity"):
            pytest.skip("needs a system that can pin a process to cores")
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONHASHSEED": "0",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.getcwd()]),
        }
        command = [sys.executable, "-c", pinned + _ON_ONE_THREAD]
        outputs.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(outputs) == 1


@pytest.mark.parametrize("config", CONFIGS, ids=["monomer", "multimer"])
def test_ensembles_stack_different_samples(config):
    raw = random_raw(np.random.default_rng(0), 9, 80)
    single = sample(raw, config, seed=0, pass_index=0)
    several = sample(raw, dataclasses.replace(config, num_ensemble=3), seed=0, pass_index=0)
    for name, leaf in _leaves(several).items():
        if name.startswith(("msa_", "extra_")):
            assert leaf.shape == (3, *getattr(single, name).shape)
            np.testing.assert_array_equal(leaf[0], getattr(single, name))
        else:
            np.testing.assert_array_equal(leaf, getattr(single, name))
    assert (several.msa_feat[1] != several.msa_feat[2]).any()


def test_a_multimer_gets_all_its_templates():
    raw = random_raw(np.random.default_rng(0), 9, 3, num_templates=1)
    features = sample(raw, MULTIMER, seed=0, pass_index=0)
    np.testing.assert_array_equal(features.template_mask, 1)
    np.testing.assert_array_equal(features.template_all_atom_mask[0], raw.templates.atom_mask[0])
    assert not features.template_all_atom_mask[1:].any()


@given(st.lists(st.one_of(st.integers(0, 10**6), st.floats(0, 1e6)), min_size=1, max_size=30))
def test_squashed_deletions(counts):
    expected = (np.arctan(np.array(counts, np.float64) / 3) * 2 / np.pi).astype(np.float32)
    np.testing.assert_allclose(squash_deletions(np.array(counts)), expected, rtol=2e-7)


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_multimer_features_equal_the_reference_of_the_same_rows(holes):
    modules = pytest.importorskip("alphafold.model.modules_multimer")
    raw = random_raw(np.random.default_rng(1), 33, 150, holes=holes)
    features = sample(raw, MULTIMER, seed=4, pass_index=0)
    drawn = draw_rows(raw, MULTIMER, (4, 0, 0))
    batch = _reference_rows(drawn)
    batch["cluster_profile"], batch["cluster_deletion_mean"] = modules.nearest_neighbor_clusters(batch)
    np.testing.assert_allclose(features.msa_feat, modules.create_msa_feat(batch), atol=3e-6)
    extra, extra_mask = modules.create_extra_msa_feature(batch, MULTIMER.num_extra_msa)
    ours = [one_hot(features.extra_msa), features.extra_deletion_value[..., None] > 0]
    ours.append(features.extra_deletion_value[..., None])
    np.testing.assert_allclose(np.concatenate(ours, axis=-1), extra, atol=1e-6)
    np.testing.assert_array_equal(features.extra_msa_mask, extra_mask)
    np.testing.assert_array_equal(features.msa_mask, batch["msa_mask"])


def test_monomer_features_equal_the_reference_of_the_same_rows():
    transforms = pytest.importorskip("alphafold.model.tf.data_transforms")
    raw = random_raw(np.random.default_rng(1), 33, 150)
    features = sample(raw, MONOMER, seed=4, pass_index=0)
    batch = _reference_rows(draw_rows(raw, MONOMER, (4, 0, 0)))
    batch |= {"aatype": raw.aatype, "between_segment_residues": np.zeros(33, np.int32)}
    batch = transforms.summarize_clusters()(transforms.nearest_neighbor_clusters()(batch))
    batch = transforms.make_msa_feat()(batch)
    np.testing.assert_allclose(features.msa_feat, batch["msa_feat"], rtol=1e-6, atol=1e-6)
    count = MONOMER.num_extra_msa
    np.testing.assert_allclose(features.extra_deletion_value, batch["extra_deletion_value"][:count], atol=1e-6)
    np.testing.assert_array_equal(features.extra_deletion_value > 0, batch["extra_has_deletion"][:count] > 0)


def test_letter_counts_equal_the_reference_profile():
    transforms = pytest.importorskip("alphafold.model.tf.data_transforms")
    raw = random_raw(np.random.default_rng(1), 33, 150)
    reference = transforms.make_hhblits_profile({"msa": raw.msa.astype(np.int32)})["hhblits_profile"]
    np.testing.assert_allclose(raw.letter_counts / 150, reference, atol=1e-7)


def _reference_rows(drawn) -> dict[str, np.ndarray]:
    return {
        "msa": drawn.clusters.letters.astype(np.int32),
        "msa_mask": drawn.clusters.mask.astype(np.float32),
        "deletion_matrix": drawn.clusters.deletions.astype(np.float32),
        "extra_msa": drawn.others.letters.astype(np.int32),
        "extra_msa_mask": drawn.others.mask.astype(np.float32),
        "extra_deletion_matrix": drawn.others.deletions.astype(np.float32),
    }
