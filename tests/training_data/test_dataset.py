"""Batches: a function of seed and step, shared out among hosts, whatever is broken on the way."""

import dataclasses

import cif
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastfold_jax.config.presets import preset
from fastfold_jax.data.training.augment import Augmentation
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import DataConfig, Dataset
from fastfold_jax.training.validation_data import ValidationConfig, ValidationSet

MODEL = preset("model_1_ptm", num_msa=8, num_extra_msa=8, num_recycles=3)
NAMES = ("1aaa", "1bbb", "1ccc", "1ddd")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rng = np.random.default_rng(4)
    letters = {name: {"A": cif.random_letters(rng, 18 + 5 * place)} for place, name in enumerate(NAMES)}
    return cif.write_dataset(tmp_path_factory.mktemp("data"), letters, rows=6)


@pytest.fixture
def own_index(tmp_path):
    """One that a test may break."""
    rng = np.random.default_rng(5)
    return cif.write_dataset(tmp_path, {name: {"A": cif.random_letters(rng, 20)} for name in NAMES}, rows=4)


def dataset(index, *, seed=0, batch_size=4, host=0, hosts=1, **options) -> Dataset:
    config = DataConfig(index=index, workers=0, **{"augmentation": Augmentation(crop_size=16), **options})
    return Dataset(config, MODEL, seed=seed, batch_size=batch_size, host=host, hosts=hosts)


def leaves(batch) -> list[np.ndarray]:
    return jax.tree.leaves((batch.features, batch.labels))


def assert_equal(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


STEPS = st.integers(0, 10_000)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=STEPS, seed=st.integers(0, 100))
def test_hosts_make_disjoint_parts_of_the_same_batch(index, step, seed):
    whole, _ = dataset(index, seed=seed).batch(step)
    for hosts in (2, 4):
        parts = [dataset(index, seed=seed, host=host, hosts=hosts).batch(step)[0] for host in range(hosts)]
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *((p.features, p.labels) for p in parts))
        assert_equal(joined, (whole.features, whole.labels))
        assert {int(part.num_recycles) for part in parts} == {int(whole.num_recycles)}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=STEPS, seed=st.integers(0, 100))
def test_batches_are_the_same_again_and_of_one_shape(index, step, seed):
    data = dataset(index, seed=seed)
    batch, skipped = data.batch(step)
    assert not skipped
    assert_equal(batch, data.batch(step)[0])
    first = data.batch(0)[0]
    assert [(leaf.shape, leaf.dtype) for leaf in leaves(batch)] == [(leaf.shape, leaf.dtype) for leaf in leaves(first)]
    assert any((one != other).any() for one, other in zip(leaves(batch), leaves(data.batch(step + 1)[0]), strict=True))
    assert batch.features.seq_mask[:, -1].any(axis=1).all() and batch.labels.atom_mask.any()


def test_recycles_and_clamping_are_drawn_by_step(index):
    data, other = dataset(index), dataset(index, host=1, hosts=2)
    recycles = [data.num_recycles(step) for step in range(2000)]
    assert recycles == [other.num_recycles(step) for step in range(2000)]
    np.testing.assert_allclose(np.bincount(recycles) / 2000, 0.25, atol=0.04)
    clamped = [data.clamped(step) for step in range(2000)]
    assert np.mean(clamped) == pytest.approx(0.9, abs=0.03)
    step = clamped.index(False)
    assert not data.batch(step)[0].labels.use_clamped_fape.any()


def test_a_mix_with_predictions(index, own_index):
    with pytest.raises(UserError, match=r"nothing in it can be used.*a pLDDT \(B-factor\) of at least 50"):
        dataset(index, distillation_index=own_index)  # the B-factors of the test's structures are 20
    data = dataset(index, distillation_index=own_index, batch_size=64, min_confidence=10.0)
    resolutions = np.concatenate([data.batch(step)[0].labels.resolution for step in range(4)])
    assert np.mean(resolutions == 0) == pytest.approx(0.75, abs=0.08)


def test_few_rows_are_drawn_of_predictions_alone(index, own_index):
    augmentation = Augmentation(crop_size=16, distillation_rows=2, deleted_blocks=0)
    options = {"distillation_index": own_index, "min_confidence": 10.0, "augmentation": augmentation}
    batch, _ = dataset(index, batch_size=24, **options).batch(0)
    masks = (batch.features.msa_mask, batch.features.extra_msa_mask)
    rows = sum(mask[:, -1].any(axis=-1).sum(axis=-1) for mask in masks)
    predicted = batch.labels.resolution == 0
    assert 0 < predicted.sum() < 24
    assert (rows[predicted] == 2).all() and (rows[~predicted] > 2).all()


def test_a_broken_record_is_skipped_and_named(own_index):
    whole = dataset(own_index, batch_size=8).batch(0)[0]
    broken = own_index.parent / "structures" / "1bbb.cif"
    broken.write_bytes(broken.read_bytes()[:2000])
    batch, skipped = dataset(own_index, batch_size=8).batch(0)
    assert {record.record for record in skipped} == {"1bbb_A"}
    assert all("1bbb.cif: a truncated mmCIF" in record.reason for record in skipped)
    # Others stay as they were.
    same = [(batch.features.aatype[row] == whole.features.aatype[row]).all() for row in range(8)]
    assert 8 > sum(same) >= 8 - len(skipped)


@pytest.mark.parametrize(
    ("what", "message"),
    [("structures", "no such file"), ("alignments", "the file is empty")],
)
def test_nothing_usable_is_an_error_before_the_first_step(own_index, what, message, caplog):
    for path in (own_index.parent / what).rglob("*.*"):
        if path.is_file():
            path.unlink() if what == "structures" else path.write_text("")
    with pytest.raises(UserError, match=f"nothing in it can be used: all 4 chains that were tried of 4.*{message}"):
        dataset(own_index)
    assert all(f"skipped {name}_A" in caplog.text for name in NAMES)


def test_nothing_left_by_filters_is_an_error(index):
    with pytest.raises(UserError, match=r"no chain can be trained on.*4 released too late"):
        dataset(index, filters=Filters(released_before="2000-01-01"))


def test_what_breaks_later_ends_in_an_error_that_names_it(own_index):
    data = dataset(own_index)
    for path in (own_index.parent / "structures").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"step 7: 100 records in a row cannot be used.*1..._A: .*no such file"):
        data.batch(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clamped_fraction": 1.5}, "clamped_fraction=1.5"),
        ({"workers": -1}, "workers=-1"),
        ({"max_chains": 0}, "max_chains=0"),
    ],
)
def test_settings_that_make_no_sense(index, options, message):
    with pytest.raises(UserError, match=message):
        DataConfig(index=index, **options)


def test_batches_that_do_not_divide(index):
    with pytest.raises(UserError, match="a batch of 4 examples does not divide among 3 processes"):
        dataset(index, hosts=3)
    with pytest.raises(UserError, match="num_ensemble=2"):
        Dataset(DataConfig(index=index), dataclasses.replace(MODEL, num_ensemble=2), seed=0, batch_size=1)
    with pytest.raises(UserError, match="eval_dropout is of predictions"):
        Dataset(DataConfig(index=index), dataclasses.replace(MODEL, eval_dropout=True), seed=0, batch_size=1)


def validation(index, **options) -> ValidationSet:
    return ValidationSet(ValidationConfig(index=index, crop_size=24), MODEL, **options)


def test_validation_sees_every_chain_once_and_always_alike(index):
    data = validation(index, batch_size=2)
    assert len(data) == 2
    once, again = list(data), list(data)
    assert [name for names, _ in once for name in names] == [f"{name}_A" for name in NAMES]
    assert_equal([batch for _, batch in once], [batch for _, batch in again])
    assert all(batch.num_recycles == 3 for _, batch in once)


def test_validation_is_shared_out_among_hosts(index):
    parts = [list(validation(index, batch_size=3, host=host, hosts=3)) for host in range(3)]
    names = [[names[0] for names, _ in part] for part in parts]
    assert names == [["1aaa_A", "1ddd_A"], ["1bbb_A", ""], ["1ccc_A", ""]]
    assert not parts[1][1][1].features.seq_mask.any() and not parts[1][1][1].labels.atom_mask.any()


def test_validation_passes_over_broken_chains(own_index, caplog):
    (own_index.parent / "structures" / "1ccc.cif").unlink()
    data = validation(own_index, batch_size=2)
    assert [name for names, _ in data for name in names] == ["1aaa_A", "1bbb_A", "", "1ddd_A"]
    assert list(data.skipped) == ["1ccc_A"] and caplog.text.count("skipped 1ccc_A (1 so far)") == 1
    for path in (own_index.parent / "structures").iterdir():
        path.unlink()
    names = [name for names, _ in validation(own_index) for name in names]
    assert names == [""] * 4


def test_clusters_of_a_file_replace_those_of_the_index(index, tmp_path):
    clusters = tmp_path / "clusters.txt"
    clusters.write_text("1aaa_A 1bbb_A\n1ccc_A\n")
    (own,), (given_,) = dataset(index)._sets, dataset(index, clusters=clusters)._sets
    assert len({record.cluster for record in own.records}) == 4
    np.testing.assert_allclose(np.diff(given_.cumulative, prepend=0), np.array([0.5, 0.5, 1, 1]) / 3)
    assert dataset(index).fingerprint != dataset(index, clusters=clusters).fingerprint
    (only,) = dataset(index, clusters=clusters, filters=Filters(need_cluster=True))._sets
    assert [record.name for record in only.records] == ["1aaa_A", "1bbb_A", "1ccc_A"]
    clusters.write_text("9zzz_A\n")
    with pytest.raises(UserError, match=r"clusters\.txt: none of its clusters has a chain of the index"):
        dataset(index, clusters=clusters)
