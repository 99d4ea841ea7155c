"""Work spread by Ray on this machine: the same results as without, errors one by one, no waiting for what can't be.

Run by test_spread.py in a process of its own.
"""

import dataclasses
import functools
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from targets import REGULATOR, TRANSPORTER, job_of

from fastfold_jax.data.job_chains import Job
from fastfold_jax.errors import UserError
from fastfold_jax.search import complete
from fastfold_jax.search.spread import Share, spread


@pytest.fixture(scope="module")
def cluster():
    """Ray with two cores, whose workers find the packages where this process does."""
    ray = pytest.importorskip("ray")
    paths = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}},
    )
    yield ray
    ray.shutdown()


def test_searches_equal_those_made_here(cluster, options, proteins, tmp_path):
    options = dataclasses.replace(options, search_threads=1)
    jobs = [
        job_of(proteins[REGULATOR]),
        Job(name="features", chains=(), features={"aatype": np.zeros(3)}),
        job_of(proteins[TRANSPORTER], proteins[REGULATOR]),
    ]
    done = dict(spread(functools.partial(complete, options=options), jobs, Share()))
    assert sorted(done) == [0, 1, 2]
    assert done[1].features["aatype"].shape == (3,)
    for number in (0, 2):
        here = complete(jobs[number], dataclasses.replace(options, no_search_cache=True))
        for mine, theirs in zip(here.chains, done[number].chains, strict=True):
            for first, second in zip(mine.alignments, theirs.alignments, strict=True):
                np.testing.assert_array_equal(first.residues, second.residues)
    broken = dataclasses.replace(options, databases=(tmp_path / "none",), no_search_cache=True)
    ((number, error),) = spread(functools.partial(complete, options=broken), jobs[:1], Share())
    assert number == 0 and isinstance(error, UserError) and "no such database" in str(error)


def test_items_are_taken_a_few_at_a_time(cluster):
    taken = []

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    results = spread(_half, items(), Share(cpus=1))
    first = next(results)
    assert len(taken) < 10
    rest = dict([first, *results])
    assert sorted(rest) == list(range(30))
    assert all(rest[i] == i / 2 for i in rest if i != 7) and isinstance(rest[7], ZeroDivisionError)
    assert cluster.is_initialized()  # the caller's connection stays


def _half(number: int) -> float:
    return number / 2 if number != 7 else number / 0


def test_one_process_does_item_after_item_and_keeps_what_it_has_read(cluster):
    done = dict(spread(_read_and_tell, range(4), Share(cpus=2)))
    assert len({process for process, _ in done.values()}) == 1
    assert [reads for _, reads in done.values()] == [1] * 4
    apart = dict(spread(_read_and_tell, range(4), Share(cpus=1)))
    assert len({process for process, _ in apart.values()}) <= 2


@functools.lru_cache
def _read() -> object:
    return object()


def _read_and_tell(number: int) -> tuple[int, int]:
    _read()
    return os.getpid(), _read.cache_info().misses


def test_a_process_that_is_killed_costs_its_item_alone(cluster, tmp_path):
    """It is tried again, as one whose node is lost; the items behind it are done all the same."""
    done = dict(spread(functools.partial(_dies, tmp_path), range(4), Share(cpus=2)))
    assert (done.pop(0), done.pop(2), done.pop(3)) == (0, 2, 3)  # 2 dies once
    assert isinstance(done[1], cluster.exceptions.RayError)  # 1 each time
    assert [len(list(tmp_path.glob(f"{number}_*"))) for number in range(4)] == [1, 4, 2, 1]


def _dies(tried: Path, number: int) -> int:
    times = len(list(tried.glob(f"{number}_*")))
    (tried / f"{number}_{times}").touch()
    if number == 1 or (number == 2 and times == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("share", [Share(cpus=64), Share(gpus=1)])
def test_what_no_node_has(cluster, share):
    with pytest.raises(UserError, match=r"no node has so many \(they have 2 and 0\)"):
        list(spread(_half, [1], share))


def test_no_cores_at_all(cluster):
    assert list(spread(_half, [1], Share(cpus=0))) == [(0, 0.5)]
    assert list(spread(_half, [], Share())) == []
