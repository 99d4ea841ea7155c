"""Saved alignments: a directory that reads as the same job; and bars of progress."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from targets import REGULATOR, TRANSPORTER, job_of

from fastfold_jax.config.presets import preset
from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.a3m_writer import a3m_text
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job import read_job
from fastfold_jax.errors import UserError
from fastfold_jax.search import bars, complete, save

MULTIMER = preset("model_1_multimer_v3")


def assert_same(first, second):
    np.testing.assert_array_equal(first.msa, second.msa)
    np.testing.assert_array_equal(first.deletions, second.deletions)
    np.testing.assert_array_equal(first.asym_id, second.asym_id)


def test_what_was_found_is_an_input(options, proteins, tmp_path):
    pytest.importorskip("pyhmmer")
    done = complete(job_of(proteins[REGULATOR], proteins[TRANSPORTER], proteins[REGULATOR]), options)
    files = save(done, tmp_path / "msas")
    assert all(path.is_file() for path in files) and len(files) == 1 + 2 * 4
    again = read_job(tmp_path / "msas")
    assert [chain.id for chain in again.chains] == [chain.id for chain in done.chains]
    assert_same(assemble(done, MULTIMER), assemble(again, MULTIMER))


@pytest.mark.parametrize("name", ["3G5O", "cobra73", "2q2k_A"])
def test_given_alignments_too(shared_data, tmp_path, name):
    given = read_job(shared_data / "msa" / name)
    save(given, tmp_path)
    again = read_job(tmp_path)
    assert_same(assemble(given, MULTIMER), assemble(again, MULTIMER))
    names = [[path.name for path in chain.hits] for chain in given.chains]
    assert [[path.name for path in chain.hits] for chain in again.chains] == names


@given(st.lists(st.text("ACDXBZ-ac", min_size=1, max_size=9), max_size=5))
def test_any_alignment_reads_as_the_same(rows):
    text = ">query a description\nABJUZ\n" + "".join(
        f">hit {i}\n{row}{'-' * (5 - sum(not letter.islower() for letter in row))}\n"
        for i, row in enumerate(rows)
        if sum(not letter.islower() for letter in row) <= 5
    )
    first = parse_a3m(text.encode(), file="x")
    second = parse_a3m(a3m_text(first), file="x")
    np.testing.assert_array_equal(first.residues, second.residues)
    np.testing.assert_array_equal(first.deletions, second.deletions)
    assert first.descriptions == second.descriptions and second.query == "ABJUZ"


def test_a_directory_that_cannot_be_written(proteins, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        save(job_of(proteins[REGULATOR]), tmp_path / "file")


def test_bars():
    out = io.StringIO()
    with bars(Console(file=out, force_terminal=True, width=100)) as report:
        report("searching uniref90", 1, 4)
        report("searching mgnify", 0, 0)
        report("searching uniref90", 4, 4)
    assert "searching uniref90" in out.getvalue() and "100 %" in out.getvalue()
    quiet = io.StringIO()
    with bars(Console(file=quiet)) as report:
        report("searching", 1, 2)
    assert not quiet.getvalue().strip()
