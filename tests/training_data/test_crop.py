"""Crops: in range, of the right size, contiguous or around an interface, the same for the same stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.data.draws import Draws
from fastfold_jax.data.training import crop, rows

SEEDS = st.integers(0, 10_000)
SIZES = st.integers(1, 80)


def check(kept: np.ndarray, num_res: int, size: int) -> None:
    assert len(kept) == min(num_res, size)
    assert (np.diff(kept) > 0).all() and kept[0] >= 0 and kept[-1] < num_res


@given(st.integers(1, 200), SIZES, SEEDS, st.booleans())
def test_a_chain_gives_one_stretch(num_res, size, seed, clamped):
    kept = crop.contiguous(num_res, size, Draws(seed), clamped=clamped)
    check(kept, num_res, size)
    assert (np.diff(kept) == 1).all()
    np.testing.assert_array_equal(kept, crop.contiguous(num_res, size, Draws(seed), clamped=clamped))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), SIZES, SEEDS)
def test_a_complex_gives_a_stretch_of_each_chain(lengths, size, seed):
    kept = crop.contiguous_complex(lengths, size, Draws(seed))
    check(kept, sum(lengths), size)
    chain = np.repeat(np.arange(len(lengths)), lengths)
    for index in range(len(lengths)):
        assert (np.diff(kept[chain[kept] == index]) == 1).all()


@given(st.integers(1, 200), SIZES, SEEDS, st.data())
def test_a_stretch_around_a_residue_holds_it(num_res, size, seed, data):
    wanted = data.draw(st.lists(st.integers(0, num_res - 1), min_size=1, unique=True))
    kept = crop.around(np.array(wanted), num_res, size, Draws(seed))
    check(kept, num_res, size)
    assert set(kept) & set(wanted) and (np.diff(kept) == 1).all()


def complex_(seed: int, lengths: list[int], apart: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random walks, `apart` Å from each other, some residues unknown."""
    rng = np.random.default_rng(seed)
    walks = [np.add(np.cumsum(rng.normal(size=(n, 3)) * 2.2, axis=0), (0, apart * i, 0)) for i, n in enumerate(lengths)]
    alpha = np.concatenate(walks).astype(np.float32)
    return alpha, rng.random(len(alpha)) < 0.85, np.repeat(np.arange(1, len(lengths) + 1), lengths)


@given(SEEDS, st.lists(st.integers(2, 40), min_size=2, max_size=4), SIZES)
def test_a_spatial_crop_is_around_an_interface(seed, lengths, size):
    alpha, known, asym_id = complex_(seed, lengths, 6.0)
    at_interface = crop.interface(alpha, known, asym_id)
    distance = np.linalg.norm(alpha[:, None] - alpha, axis=-1)
    near = (distance < crop.INTERFACE_DISTANCE) & (asym_id[:, None] != asym_id) & known & known[:, None]
    np.testing.assert_array_equal(at_interface, near.any(axis=1))
    kept = crop.spatial(alpha, known, asym_id, size, Draws(seed))
    if not at_interface.any():
        assert kept is None
        return
    assert len(kept) == min(size, len(alpha)) and (np.diff(kept) > 0).all()
    assert known[kept].sum() == min(size, known.sum())  # those of unknown place come last
    assert at_interface[kept].any()
    # It is the ball around one of its residues: no known residue outside is nearer to it than one inside.
    outside = np.setdiff1d(np.flatnonzero(known), kept)
    if len(outside):
        slack = 2e-3 * len(alpha)  # distances are told apart by residue number too
        ball = distance[np.ix_(kept, kept)].max(axis=1) <= distance[np.ix_(kept, outside)].min(axis=1) + slack
        assert (ball & at_interface[kept]).any()


def test_chains_far_apart_have_no_interface():
    alpha, known, asym_id = complex_(0, [10, 10], 1e4)
    assert crop.spatial(alpha, known, asym_id, 8, Draws(0)) is None


def test_crops_reach_every_residue_and_tend_to_the_start_when_unclamped():
    starts = {
        clamped: np.array([crop.contiguous(60, 20, Draws(seed), clamped=clamped)[0] for seed in range(3000)])
        for clamped in (True, False)
    }
    counts = np.bincount(starts[True], minlength=41)
    assert counts.min() > 30 and counts.max() < 130  # 73 expected of each
    # Uniform from 0 to a uniform number: half as far on average.
    assert starts[True].mean() == pytest.approx(20, abs=1)
    assert starts[False].mean() == pytest.approx(10, abs=1)


@given(st.integers(1, 400), SEEDS)
def test_deleted_blocks_leave_the_query_and_runs(num_rows, seed):
    kept = rows.without_blocks(num_rows, Draws(seed))
    assert kept[0] == 0 and (np.diff(kept) > 0).all() and kept[-1] < num_rows
    deleted = np.setdiff1d(np.arange(num_rows), kept)
    block = int(num_rows * 0.3)
    assert len(deleted) <= 5 * block
    # What is deleted lies in at most five runs.
    assert np.count_nonzero(np.diff(deleted) > 1) < 5 or not len(deleted)


@pytest.mark.parametrize(("fraction", "blocks"), [(0.3, 5), (0.1, 2)])
def test_rows_are_deleted_as_often_as_blocks_begin_before_them(fraction, blocks):
    """A block begins at a uniform row, those near the end being cut short."""
    num_rows, length = 1000, round(1000 * fraction)
    share = np.ones(num_rows)
    for seed in range(2000):
        share[rows.without_blocks(num_rows, Draws(seed), fraction=fraction, blocks=blocks)] -= 1 / 2000
    expected = 1 - (1 - np.minimum(np.arange(1, num_rows + 1), length) / num_rows) ** blocks
    for part in (slice(1, length), slice(length, None)):  # of the latter 1 - 0.7^5 where nothing is changed
        assert share[part].mean() == pytest.approx(expected[part].mean(), abs=0.03)


@given(st.integers(1, 400), st.integers(1, 100), SEEDS)
def test_few_rows_keep_the_query(num_rows, most, seed):
    kept = rows.few(num_rows, most, Draws(seed))
    assert len(kept) == min(num_rows, most) and kept[0] == 0 and (np.diff(kept) > 0).all() and kept[-1] < num_rows
