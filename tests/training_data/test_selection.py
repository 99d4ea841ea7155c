"""Which chains are trained on, and how often each is drawn."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.data.draws import Draws
from fastfold_jax.data.training.example import Reader
from fastfold_jax.data.training.records import ChainEntry, FileEntry, Index, composition
from fastfold_jax.data.training.selection import Filters, length_weight, select, weights
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import RecordSet

CHAIN = ChainEntry(
    label="Ax",
    author="A",
    entity="1",
    length=100,
    resolved=80,
    composition=composition("ARNDC" * 20),
    alignment="1abc_A",
)
ENTRY = FileEntry(file="1abc.cif", size=1, mtime_ns=1, release_date="2010-05-04", resolution=2.0, chains=(CHAIN,))


def entry(name: str = "1abc", *, chains=(CHAIN,), **fields) -> FileEntry:
    return dataclasses.replace(ENTRY, file=f"{name}.cif", chains=tuple(chains), **fields)


def chain(**fields) -> ChainEntry:
    return dataclasses.replace(CHAIN, **fields)


def index(*entries: FileEntry) -> Index:
    return Index(structures=Path("s"), alignments=Path("a"), files=entries)


@pytest.mark.parametrize(
    ("filters", "entry_", "chain_", "reason"),
    [
        ({}, {"resolution": 9.0}, {}, "resolution"),
        ({}, {"resolution": 8.9}, {}, None),
        ({}, {"resolution": None}, {}, None),
        ({"released_before": "2018-04-30"}, {"release_date": "2018-05-01"}, {}, "released too late"),
        ({"released_before": "2018-04-30"}, {"release_date": "2018-04-30"}, {}, None),
        ({"released_before": "2018-04-30"}, {"release_date": None}, {}, "released too late"),
        ({"released_after": "2018-04-30"}, {}, {}, "released too early"),
        ({"min_length": 101}, {}, {}, "too short"),
        ({"max_length": 99}, {}, {}, "too long"),
        ({}, {}, {"composition": composition("A" * 81 + "R" * 19)}, "mostly one residue type"),
        ({}, {}, {"composition": composition("A" * 80 + "R" * 20)}, None),
        ({}, {}, {"resolved": 0}, "no residue resolved"),
        ({}, {}, {"alignment": None}, "no alignment"),
        ({"need_alignment": False}, {}, {"alignment": None}, None),
        ({"need_cluster": True}, {}, {}, "no cluster"),
    ],
)
def test_filters(filters, entry_, chain_, reason):
    assert Filters(**filters).reason(entry(**entry_), chain(**chain_)) == reason


@pytest.mark.parametrize(
    "fields",
    [
        {"released_before": "30.04.2018"},
        {"released_after": "20180430"},
        {"max_resolution": 0},
        {"max_residue_share": 80},
    ],
)
def test_filters_that_make_no_sense(fields):
    with pytest.raises(UserError, match=f"{next(iter(fields))}[= ]"):
        Filters(**fields)


def test_what_is_left_out_is_counted(caplog):
    caplog.set_level("INFO")
    found = select(
        index(entry(), entry("1bbb", resolution=10.0), entry("1ccc", chains=(), error="1ccc.cif: no")),
        Filters(),
        what="set",
    )
    assert [record.name for record in found] == ["1abc_A"]
    assert "1 chains; left out: 1 resolution, 1 unreadable file" in caplog.text


def test_nothing_left_is_an_error():
    with pytest.raises(UserError, match=r"set: no chain can be trained on.* 1 resolution"):
        select(index(entry(resolution=10.0)), Filters(), what="set")


@pytest.mark.parametrize(("length", "weight"), [(1, 0.5), (256, 0.5), (384, 0.75), (512, 1.0), (3000, 1.0)])
def test_longer_chains_are_drawn_more_often(length, weight):
    assert length_weight(length) == weight


def test_each_cluster_is_drawn_alike_but_for_length():
    found = select(
        index(
            entry("1aaa", chains=[chain(cluster="x"), chain(label="B", author="B", cluster="x", length=512)]),
            entry("1bbb", chains=[chain(cluster="y")]),
            entry("1ccc", chains=[chain()]),
        ),
        Filters(),
        what="set",
    )
    expected = np.array([0.25, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(weights(found), expected / expected.sum())


def test_records_are_drawn_by_their_weights():
    found = select(
        index(*(entry(f"1a{number:02}", chains=[chain(length=100 * number)]) for number in range(1, 8))),
        Filters(),
        what="",
    )
    wanted = weights(found)
    records = RecordSet(
        name="",
        records=found,
        cumulative=np.cumsum(wanted),
        reader=Reader(structures=Path(), alignments=None, config=preset("model_1")),
        distillation=False,
    )
    drawn = [records.draw(Draws(3, number)).name for number in range(4000)]
    shares = [drawn.count(record.name) / len(drawn) for record in found]
    np.testing.assert_allclose(shares, wanted, atol=0.025)
