"""Feature dicts of AlphaFold's own pipelines, monomer and multimer, and what is said of dicts that are not."""

import contextlib
import logging

import numpy as np
import pytest
import reference_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import job, letters, random_alignment, random_query

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import HHBLITS_TO_RESTYPE
from fastfold_jax.data.alphafold_features import from_alphafold_dict
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import Job
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.sampling import sample
from fastfold_jax.errors import UserError

MONOMER, MULTIMER = preset("model_1_ptm"), preset("model_1_multimer_v3")


def _monomer_dict(num_templates: int = 0) -> dict[str, np.ndarray]:
    """What AlphaFold's monomer pipeline returns, its strings included."""
    rng = np.random.default_rng(0)
    letter = np.eye(22, dtype=np.float32)
    return {
        "aatype": np.eye(21, dtype=np.int32)[[0, 3, 20, 7, 19]],
        "between_segment_residues": np.zeros(5, np.int32),
        "domain_name": np.array([b"test"], object),
        "residue_index": np.arange(5, dtype=np.int32),
        "seq_length": np.full(5, 5, np.int32),
        "sequence": np.array([b"ANXGV"], object),
        "deletion_matrix_int": rng.integers(0, 4, (7, 5)).astype(np.int32),
        "msa": rng.integers(0, 22, (7, 5)).astype(np.int32),
        "num_alignments": np.full(5, 7, np.int32),
        "msa_species_identifiers": np.array([b""] * 7, object),
        "template_aatype": letter[rng.integers(0, 22, (num_templates, 5))],
        "template_all_atom_masks": rng.integers(0, 2, (num_templates, 5, 37)).astype(np.float32),
        "template_all_atom_positions": rng.normal(size=(num_templates, 5, 37, 3)).astype(np.float32),
        "template_domain_names": np.array([b"1abc_A"] * num_templates, object),
        "template_sequence": np.array([b"A"] * num_templates, object),
        "template_sum_probs": rng.random((num_templates, 1)).astype(np.float32),
    }


def test_a_monomers_dict():
    features = _monomer_dict(num_templates=6)
    raw = from_alphafold_dict(features, MONOMER)
    np.testing.assert_array_equal(raw.aatype, [0, 3, 20, 7, 19])
    np.testing.assert_array_equal(raw.msa, HHBLITS_TO_RESTYPE[features["msa"]])
    np.testing.assert_array_equal(raw.deletions, features["deletion_matrix_int"])
    np.testing.assert_array_equal(raw.first, np.arange(7) == 0)
    best = np.argsort(-features["template_sum_probs"][:, 0])
    template_letters = HHBLITS_TO_RESTYPE[features["template_aatype"].argmax(-1)]
    np.testing.assert_array_equal(raw.templates.aatype, template_letters[best])
    np.testing.assert_array_equal(raw.templates.positions, features["template_all_atom_positions"][best])
    np.testing.assert_array_equal(raw.templates.atom_mask, features["template_all_atom_masks"][best])
    sampled = sample(raw, MONOMER, seed=0, pass_index=0)
    np.testing.assert_array_equal(sampled.template_aatype, template_letters[best[:4]])


@pytest.mark.parametrize("missing", ["template_sum_probs", "templates", "empty templates", "default template"])
def test_a_monomers_dict_without_templates(missing):
    features = _monomer_dict(num_templates=2)
    if missing == "template_sum_probs":
        del features[missing]
    elif missing == "templates":
        features = {key: value for key, value in features.items() if not key.startswith("template")}
    elif missing == "empty templates":  # HHsearch found none
        features |= {key: np.array([], value.dtype) for key, value in features.items() if key.startswith("template")}
    else:  # hmmsearch found none
        features |= {key: np.zeros_like(value[:1]) for key, value in features.items() if key.startswith("template")}
        features["template_sum_probs"] = np.zeros(1, np.float32)
    raw = from_alphafold_dict(features, MONOMER)
    expected = {"template_sum_probs": 2, "default template": 1}.get(missing, 0)
    assert len(raw.templates) == expected
    assert sample(raw, MONOMER, seed=0, pass_index=0).template_aatype.shape == (expected, 5)


def test_a_monomers_dict_for_a_multimer_model():
    raw = from_alphafold_dict(_monomer_dict(), MULTIMER, limits=Limits(complex_rows=3))
    assert raw.num_rows == 3
    for ids in (raw.asym_id, raw.entity_id, raw.sym_id):
        np.testing.assert_array_equal(ids, 1)


def test_the_references_own_dict_of_a_monomer():
    rng = np.random.default_rng(0)
    query = random_query(rng, 30)
    alignments = (random_alignment(rng, query, 40, "uniref90"),)
    features = reference_pipeline.chain_features(letters(query), alignments, None)
    _assert_same(from_alphafold_dict(features, MONOMER), assemble(job((query, alignments, None)), MONOMER))


@pytest.mark.parametrize("copies", ["A", "AAB"])
def test_the_references_own_dict_of_a_multimer(copies, caplog):
    _, pipeline_multimer, *_ = reference_pipeline.modules()
    rng = np.random.default_rng(0)
    chains = {}
    for letter, num_res in (("A", 30), ("B", 21)):
        query = random_query(rng, num_res)
        alignment = random_alignment(rng, query, 20, "bfd")
        chains[letter] = (query, (alignment,), random_alignment(rng, query, 25, "uniprot", 6))
    complex_ = job(*(chains[letter] for letter in copies))
    features = pipeline_multimer.pad_msa(reference_pipeline.multimer_features(complex_), 512)
    _assert_same(from_alphafold_dict(features, MULTIMER), assemble(complex_, MULTIMER))
    with caplog.at_level(logging.WARNING):
        _assert_same(from_alphafold_dict(features, MONOMER), assemble(complex_, MONOMER))
    assert ("trained on single chains" in caplog.text) == (len(copies) > 1)
    through_job = assemble(Job(name="test", chains=(), features=features), MULTIMER)
    _assert_same(through_job, assemble(complex_, MULTIMER))


def _assert_same(made, expected):
    for name in ("aatype", "residue_index", "asym_id", "entity_id", "sym_id", "seq_mask", "msa", "msa_mask", "first"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(made.deletions, expected.deletions)
    assert len(made.templates) == 0 or not made.templates.atom_mask.any()


@pytest.mark.parametrize("name", ["model_1_multimer", "model_1_multimer_v3", "model_1_multimer_v3_masked"])
def test_recorded_multimer_features(test_data, name):
    features = dict(np.load(test_data / "parity" / f"{name}.feats.npz"))
    raw = from_alphafold_dict(features, MULTIMER)
    kept = features["msa_mask"].any(axis=1)
    np.testing.assert_array_equal(raw.msa, features["msa"][kept])
    np.testing.assert_array_equal(raw.msa_mask, features["msa_mask"][kept])
    np.testing.assert_array_equal(raw.seq_mask, features["seq_mask"])
    np.testing.assert_array_equal(raw.residue_index, features["residue_index"])
    sampled = sample(raw, preset("model_1_multimer_v3", num_msa=8, num_extra_msa=10), seed=0, pass_index=0)
    assert sampled.msa_feat.shape == (8, 37, 49)
    np.testing.assert_array_equal(sampled.template_aatype[:2], features["template_aatype"])
    # The query's row is that of the reference but for masking.
    recorded = np.load(test_data / "parity" / f"{name}.sampled.npz")
    np.testing.assert_array_equal(sampled.msa_mask[0], recorded["msa_mask"][0, 0])
    np.testing.assert_allclose(sampled.msa_feat[0, :, 23:25], recorded["msa_feat"][0, 0, :, 23:25], atol=1e-6)


_BROKEN = {
    "no MSA": ({"msa": None}, r"no 'msa'; found are aatype, "),
    "no deletions": ({"deletion_matrix_int": None}, r"no 'deletion_matrix_int'"),
    "no residue index": ({"residue_index": None}, r"no 'residue_index'"),
    "no aatype": ({"aatype": None}, r"no 'aatype'"),
    "narrow MSA": ({"msa": np.zeros((7, 4), int)}, r"'msa' has shape \(7, 4\), where \(r, 5\) is needed"),
    "fewer deletions": ({"deletion_matrix_int": np.zeros((6, 5))}, r"shape \(6, 5\), where \(7, 5\) is needed"),
    "no rows": ({"msa": np.zeros((0, 5)), "deletion_matrix_int": np.zeros((0, 5))}, r"has no row"),
    "other letters": ({"msa": np.full((7, 5), 22)}, r"'msa' must hold whole numbers from 0 to 21"),
    "halves": ({"deletion_matrix_int": np.full((7, 5), 0.5)}, r"'deletion_matrix_int' must hold whole numbers"),
    "strings": ({"msa": np.full((7, 5), "A")}, r"'msa' \(<U1\) must hold finite numbers"),
    "not a number": ({"residue_index": np.full(5, np.nan)}, r"must hold finite numbers"),
    "flat positions": ({"template_all_atom_positions": np.zeros((2, 5, 37))}, r"where \(t, 5, 37, 3\) is needed"),
    "wide one-hot": ({"aatype": np.zeros((5, 22))}, r"where \(n, 21\) is needed"),
}


@pytest.mark.parametrize("fault", _BROKEN)
def test_broken_dicts_are_user_errors(fault):
    changes, message = _BROKEN[fault]
    features = {key: value for key, value in (_monomer_dict(2) | changes).items() if value is not None}
    with pytest.raises(UserError, match=message):
        from_alphafold_dict(features, MONOMER)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_dicts_either_work_or_are_user_errors(data):
    features = _monomer_dict(2)
    key = data.draw(st.sampled_from(sorted(features)))
    value = data.draw(
        st.sampled_from([np.zeros(0), np.array(3), np.array("text"), -features["msa"], np.zeros((5, 5)), np.ones(5)])
    )
    with contextlib.suppress(UserError):
        from_alphafold_dict(features | {key: value}, MONOMER)
