"""Merging alignments: order, caps, repeated rows; and the real ones against the reference."""

import dataclasses

import numpy as np
import pytest
import reference_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import letters, random_alignment, random_query

from fastfold_jax.constants import HHBLITS_TO_RESTYPE
from fastfold_jax.data.alignment import Alignment
from fastfold_jax.data.job import read_job
from fastfold_jax.data.msa import Limits, cap, first_occurrences, merge, not_in


def _alignment(*rows: str, source: str) -> Alignment:
    residues = np.array([["ARNDCQEGHILKMFPSTWYVX-".index(letter) for letter in row] for row in rows], np.int8)
    return Alignment(residues=residues, deletions=np.zeros(residues.shape, np.uint8), descriptions=rows, source=source)


def test_alignments_merge_in_alphafolds_order_without_repeats():
    merged = merge(
        "AR",
        [
            _alignment("AR", "DD", source="other"),
            _alignment("AR", "NN", "CC", source="mgnify"),
            _alignment("AR", "CC", "-R", source="bfd"),
            _alignment("AR", "NN", source="uniref90"),
            _alignment("AR", "EE", source="uniprot"),
        ],
        Limits(),
    )
    assert [letters(row) for row in merged.residues] == ["AR", "NN", "CC", "-R", "DD"]


def test_a_chain_without_alignments_is_its_query():
    merged = merge("ARXBZUOJ", [], Limits())
    assert [letters(row) for row in merged.residues] == ["ARXDECXX"]
    assert not merged.deletions.any()


@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from(["uniref90", "mgnify", "uniprot", "paired"]))
@settings(deadline=None)
def test_searches_sorted_by_e_value_are_cut(num_rows, most, source):
    alignment = random_alignment(np.random.default_rng(0), random_query(np.random.default_rng(0), 9), num_rows, source)
    limits = Limits(**{"reservoir" if source == "paired" else source: most})
    np.testing.assert_array_equal(cap(alignment, limits).residues, alignment.residues[:most])


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 9))
@settings(deadline=None)
def test_others_are_drawn_from(num_rows, most, seed):
    alignment = random_alignment(np.random.default_rng(0), random_query(np.random.default_rng(0), 30), num_rows, "bfd")
    numbered = dataclasses.replace(alignment, deletions=np.tile(np.arange(num_rows)[:, None], 30))
    drawn = cap(numbered, Limits(reservoir=most, seed=seed))
    rows = drawn.deletions[:, 0]
    assert len(rows) == min(num_rows, most) and rows[0] == 0 and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(drawn.residues, alignment.residues[rows])
    np.testing.assert_array_equal(cap(numbered, Limits(reservoir=most, seed=seed)).deletions[:, 0], rows)


def test_the_draw_is_uniform_and_depends_on_the_seed():
    alignment = random_alignment(np.random.default_rng(0), random_query(np.random.default_rng(0), 3), 41, "other")
    alignment = dataclasses.replace(alignment, deletions=np.tile(np.arange(41)[:, None], 3))
    times = sum(
        np.bincount(cap(alignment, Limits(reservoir=11, seed=seed)).deletions[:, 0], minlength=41)
        for seed in range(400)
    )
    assert times[0] == 400
    assert abs(times[1:] - 100).max() < 5 * np.sqrt(75)


@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=20))
def test_first_occurrences_keep_one_of_each_row(rows):
    rows = np.array(rows, np.int8)
    kept = first_occurrences(rows)
    unique, first = np.unique(rows, axis=0, return_index=True)
    np.testing.assert_array_equal(kept, np.sort(first))
    np.testing.assert_array_equal(first_occurrences(rows[:, :1], rows[:, 1:]), kept)
    np.testing.assert_array_equal(not_in(rows, rows[:1]), (rows != rows[0]).any(axis=1))
    assert len(unique) == len(kept)


@pytest.mark.parametrize("field", ["uniref90", "mgnify", "uniprot", "reservoir", "complex_rows", "seed"])
def test_limits_are_checked(field):
    with pytest.raises(ValueError, match=f"{field}=-1"):
        Limits(**{field: -1})


@pytest.mark.parametrize("name", ["6KWC_1", "cobra73", "2q2k_A"])
def test_real_alignments_equal_the_reference(shared_data, name):
    pipeline, *_, parsers = reference_pipeline.modules()
    (chain,) = read_job(shared_data / "msa" / name).chains
    merged = merge(chain.sequence, chain.alignments, Limits())

    reference = []
    for pattern, most in (("uniref90*.sto", 10_000), ("bfd*.a3m", None), ("mgnify*.sto", 501)):
        for file in (shared_data / "msa" / name).glob(pattern):
            text = file.read_text()
            is_a3m = file.suffix == ".a3m"
            if most is not None:
                text = parsers.truncate_stockholm_msa(str(file), most)
            reference.append(parsers.parse_a3m(text) if is_a3m else parsers.parse_stockholm(text))
    features = pipeline.make_msa_features(reference_pipeline.without_repeats(reference))
    np.testing.assert_array_equal(merged.residues, HHBLITS_TO_RESTYPE[features["msa"]])
    np.testing.assert_array_equal(merged.deletions, features["deletion_matrix_int"])
