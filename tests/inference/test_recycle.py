"""Stop rules, compared with the released loops written out, and the thread that makes features ahead."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.config.presets import preset
from fastfold_jax.inference.config import RecyclingOptions
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.inference.result import PassRecord


def passes_made(recycling: Recycling, changes: list[float]) -> int:
    """How many passes the rule makes when pass i changes the structure by changes[i]."""
    made = []
    while True:
        made.append(PassRecord(plddt=50.0, ptm=None, iptm=None, change=changes[len(made)], seconds=0.0))
        if recycling.is_last(made):
            return len(made)


def deepmind_loop(changes: list[float], num_iter: int, tolerance: float) -> int:
    """AlphaFold-Multimer: `while i < num_iter and (i == 0 or diff > tolerance)`, then one pass more."""
    i, diff = 0, None
    while i < num_iter and (i == 0 or diff > tolerance):
        diff = changes[i]
        i += 1
    return i + 1


def colabfold_loop(changes: list[float], num_iter: int, tolerance: float) -> int:
    for r in range(num_iter + 1):
        if r > 0 and changes[r] < tolerance:
            break
    return r + 1


@given(changes=st.lists(st.floats(0.0, 2.0), min_size=21, max_size=21), num_recycles=st.integers(0, 20))
def test_rules_are_the_released_ones(changes, num_recycles):
    changes[0] = 50.0  # against zeros
    for rule, loop in (("deepmind", deepmind_loop), ("colabfold", colabfold_loop)):
        recycling = Recycling(num_recycles=num_recycles, tolerance=0.5, rule=rule)
        if 0.5 not in changes:
            assert passes_made(recycling, changes) == loop(changes, num_recycles, 0.5)


def test_first_pass_never_counts_as_converged():
    for rule in ("deepmind", "colabfold"):
        assert passes_made(Recycling(num_recycles=3, tolerance=0.5, rule=rule), [0.0, 9.0, 9.0, 9.0]) == 4


def test_without_tolerance_all_passes_are_made():
    assert passes_made(Recycling(num_recycles=3), [0.0] * 4) == 4
    assert passes_made(Recycling(num_recycles=0), [0.0]) == 1


def test_defaults_are_the_models_own():
    monomer, multimer = preset("model_1_ptm"), preset("model_1_multimer_v3")
    assert Recycling.of(RecyclingOptions(), monomer) == Recycling(num_recycles=3)
    assert Recycling.of(RecyclingOptions(), multimer) == Recycling(num_recycles=20, tolerance=0.5)
    options = RecyclingOptions(recycles=5, recycle_tolerance=0.0, recycle_stop="colabfold")
    assert Recycling.of(options, multimer) == Recycling(num_recycles=5, rule="colabfold")
    assert Recycling.of(RecyclingOptions(recycle_tolerance=1.0), monomer).tolerance == 1.0


def test_next_features_are_made_meanwhile():
    begun = [threading.Event() for _ in range(3)]
    makers = set()

    def make(index):
        makers.add(threading.current_thread())
        begun[index].set()
        return f"features {index}"

    with FeatureStream(make, 3) as stream:
        assert begun[0].wait(10)  # before anybody asks
        assert stream.peek() == stream.peek() == "features 0"
        assert not begun[1].is_set()
        assert stream.take() == "features 0"
        assert begun[1].wait(10)  # while the caller works with the first
        assert stream.take() == "features 1"
        assert stream.take() == "features 2"
        with pytest.raises(IndexError):
            stream.take()
    assert threading.current_thread() not in makers


def test_error_in_the_thread_reaches_the_caller():
    def make(index):
        raise ValueError("bad alignment")

    with FeatureStream(make, 2) as stream, pytest.raises(ValueError, match="bad alignment"):
        stream.take()


def test_stopping_early_waits_for_nothing():
    release = threading.Event()

    def make(index):
        if index:
            release.wait(10)
        return index

    with FeatureStream(make, 9) as stream:
        assert stream.take() == 0
    assert not release.is_set()
    release.set()
