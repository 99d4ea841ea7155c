"""Cluster assignment and summaries against plain definitions and against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proteins import random_raw

from fastfold_jax.data.clusters import Rows, nearest_centres, summarise_monomer, summarise_multimer
from fastfold_jax.data.raw import one_hot


def _random_rows(rng: np.random.Generator, num_rows: int, num_res: int, holes: float, letters: int = 23) -> Rows:
    return Rows(
        letters=rng.integers(0, letters, (num_rows, num_res)).astype(np.int8),
        deletions=rng.integers(0, 3, (num_rows, num_res)).astype(np.uint8),
        mask=rng.random((num_rows, num_res)) >= holes,
    )


@st.composite
def centres_and_rows(draw) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_res = draw(st.sampled_from([1, 2, 7, 63, 64, 65, 130]))
    holes = draw(st.sampled_from([0.0, 0.3, 1.0]))
    letters = draw(st.sampled_from([2, 23]))  # few letters make many ties
    return (
        _random_rows(rng, draw(st.integers(1, 9)), num_res, holes, letters),
        _random_rows(rng, draw(st.integers(0, 150)), num_res, holes, letters),
    )


def _agreement(centres: Rows, rows: Rows) -> np.ndarray:
    """[rows, centres] by definition: equal letters below gap where both are unmasked."""
    equal = rows.letters[:, None] == centres.letters[None]
    return (equal & (rows.letters < 21)[:, None] & rows.mask[:, None] & centres.mask[None]).sum(-1)


@given(centres_and_rows())
@settings(max_examples=60, deadline=None)
def test_nearest_centres_are_those_of_most_agreement(case):
    centres, rows = case
    found = nearest_centres(centres, rows)
    agreement = _agreement(centres, rows)
    np.testing.assert_array_equal(found.agreement, agreement.max(axis=1, initial=0))
    np.testing.assert_array_equal(found.first, agreement.argmax(axis=1))
    tied = (agreement == agreement.max(axis=1, initial=0)[:, None]) & (agreement > 0)
    some = found.agreement[found.row] > 0
    np.testing.assert_array_equal(np.stack([found.row[some], found.centre[some]]), np.nonzero(tied))


@given(centres_and_rows())
@settings(max_examples=40, deadline=None)
def test_monomer_profiles_are_distributions_where_anything_is_known(case):
    centres, rows = case
    centres = Rows(letters=centres.letters, deletions=centres.deletions, mask=np.ones_like(centres.mask))
    summary = summarise_monomer(centres, rows)
    np.testing.assert_allclose(summary.profile.sum(-1), 1, atol=1e-5)
    assert (summary.deletion_mean >= 0).all() and (summary.deletion_mean <= 2).all()


def test_without_other_rows_a_cluster_is_its_centre():
    rng = np.random.default_rng(0)
    centres, none = _random_rows(rng, 3, 9, 0.0), _random_rows(rng, 0, 9, 0.0)
    for summarise in (summarise_monomer, summarise_multimer):
        summary = summarise(centres, none)
        np.testing.assert_allclose(summary.profile, one_hot(centres.letters), atol=2e-6)
        np.testing.assert_allclose(summary.deletion_mean, centres.deletions, atol=4e-6)


def _reference_batch(centres: Rows, rows: Rows) -> dict[str, np.ndarray]:
    return {
        "msa": centres.letters.astype(np.int32),
        "msa_mask": centres.mask.astype(np.float32),
        "deletion_matrix": centres.deletions.astype(np.float32),
        "extra_msa": rows.letters.astype(np.int32),
        "extra_msa_mask": rows.mask.astype(np.float32),
        "extra_deletion_matrix": rows.deletions.astype(np.float32),
    }


@pytest.mark.parametrize("holes", [0.0, 0.4])
@pytest.mark.parametrize("letters", [2, 23])  # few letters make many ties, and rows that agree with no centre
@pytest.mark.parametrize("num_res", [3, 70])
def test_multimer_summary_equals_the_reference(num_res, letters, holes):
    modules = pytest.importorskip("alphafold.model.modules_multimer")
    rng = np.random.default_rng(num_res)
    centres, rows = (_random_rows(rng, count, num_res, holes, letters) for count in (7, 60))
    summary = summarise_multimer(centres, rows)
    profile, deletion_mean = modules.nearest_neighbor_clusters(_reference_batch(centres, rows))
    np.testing.assert_allclose(summary.profile, profile, atol=2e-6)
    np.testing.assert_allclose(summary.deletion_mean, deletion_mean, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("num_rows", "num_res"), [(1, 5), (300, 40), (1000, 129)])
def test_monomer_summary_equals_the_reference(num_rows, num_res):
    transforms = pytest.importorskip("alphafold.model.tf.data_transforms")
    rng = np.random.default_rng(num_rows)
    raw = random_raw(rng, num_res, num_rows + 12)
    everything = Rows(letters=raw.msa, deletions=raw.deletions, mask=raw.msa_mask)
    centres, rows = everything[:12], everything[12:]
    centres.letters[rng.random(centres.letters.shape) < 0.1] = 22  # the mask letter
    batch = transforms.nearest_neighbor_clusters()(_reference_batch(centres, rows))
    np.testing.assert_array_equal(nearest_centres(centres, rows).first, batch["extra_cluster_assignment"])
    batch = transforms.summarize_clusters()(batch)
    summary = summarise_monomer(centres, rows)
    np.testing.assert_allclose(summary.profile, batch["cluster_profile"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(summary.deletion_mean, batch["cluster_deletion_mean"], rtol=1e-6)
