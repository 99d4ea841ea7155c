"""jackhmmer through pyhmmer: equal to HMMER's own whole iteration however a file is cut, packed and read."""

import contextlib
import gzip
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packers import COMPRESS
from targets import REGULATOR, TRANSPORTER

from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.stockholm import read_stockholm
from fastfold_jax.errors import UserError
from fastfold_jax.search import hmmer
from fastfold_jax.search.hmmer import Workers, jackhmmer_options, search_alignments

pyhmmer = pytest.importorskip("pyhmmer")


def search(sequences, database, *, threads=2, report=lambda *_: None):
    with ThreadPoolExecutor(threads) as pool:
        workers = Workers(pool=pool, threads=threads)
        return search_alignments(sequences, database, options=jackhmmer_options(1e-4), workers=workers, report=report)


def whole_iteration(sequence, database, tmp_path):
    """One iteration of jackhmmer over a database in memory, through a Stockholm file as AlphaFold's pipeline has it."""
    alphabet = pyhmmer.easel.Alphabet.amino()
    with pyhmmer.easel.SequenceFile(database, digital=True, alphabet=alphabet) as file:
        targets = file.read_block()
    query = pyhmmer.easel.TextSequence(name="query", sequence=sequence).digitize(alphabet)
    pipeline = pyhmmer.plan7.Pipeline(alphabet, F1=5e-4, F2=5e-5, F3=5e-7, E=1e-4, incE=1e-4, incdomE=1e-3)
    iteration = next(pipeline.iterate_seq(query, targets))
    path = tmp_path / "whole.sto"
    with open(path, "wb") as file:
        iteration.msa.write(file, "stockholm")
    return read_stockholm(path, source="other", choose=np.arange)


@pytest.mark.parametrize("residues", [30_000, 4_000_000])
@pytest.mark.parametrize("name", ["uniprot_all", "uniref90", "mgy_clusters", "bfd"])
def test_alignments_equal_a_whole_iteration(databases, proteins, tmp_path, monkeypatch, name, residues):
    monkeypatch.setattr(hmmer, "BLOCK_RESIDUES", residues)
    (database,) = databases.glob(f"{name}*")
    queries = [proteins[REGULATOR].sequence, proteins[TRANSPORTER].sequence]
    for text, sequence in zip(search(queries, database), queries, strict=True):
        made = parse_a3m(text, file="made", source="other")
        expected = whole_iteration(sequence, database, tmp_path)
        assert made.query == sequence
        assert len(made.residues) == len(expected.residues) > 2
        np.testing.assert_array_equal(made.residues, expected.residues)
        np.testing.assert_array_equal(made.deletions, expected.deletions)
        assert [header.split(" ")[0] for header in made.descriptions] == list(expected.descriptions)


def test_headers_keep_their_descriptions(databases, proteins):
    (database,) = databases.glob("uniref90*")
    (text,) = search([proteins[REGULATOR].sequence], database)
    first = parse_a3m(text, file="made").descriptions[1]
    assert first.startswith("UniRef90_") and "/" in first.split()[0] and "TaxID=" in first


@pytest.mark.parametrize("pack", COMPRESS.values())
def test_a_packed_file_gives_the_same(databases, proteins, tmp_path, pack):
    (database,) = databases.glob("uniprot_all*")
    packed = tmp_path / "uniprot.fasta.packed"
    packed.write_bytes(pack(database.read_bytes()))
    query = [proteins[TRANSPORTER].sequence]
    assert search(query, packed) == search(query, database)


def test_progress_is_reported_to_the_end(databases, proteins, monkeypatch):
    monkeypatch.setattr(hmmer, "BLOCK_RESIDUES", 50_000)
    (database,) = databases.glob("uniprot_all*")
    seen = []
    search([proteins[TRANSPORTER].sequence], database, report=lambda *told: seen.append(told))
    done = [done for _, done, _ in seen]
    assert len(seen) > 3 and done == sorted(done)
    assert done[-1] == seen[-1][2] == database.stat().st_size


def test_only_the_best_hits_are_kept(databases, proteins, monkeypatch):
    (database,) = databases.glob("uniprot_all*")
    query = [proteins[TRANSPORTER].sequence]
    (everything,) = search(query, database)
    monkeypatch.setattr(hmmer, "MOST_HITS", 3)
    (best,) = search(query, database)
    whole, kept = (parse_a3m(text, file="made").descriptions for text in (everything, best))
    assert 3 <= len(kept) - 1 < len(whole) - 1
    assert set(kept) <= set(whole) and kept[:2] == whole[:2]


@pytest.mark.parametrize("letters", ["BJOUXZ" * 5 + "MKVL", "A", "X" * 40])
def test_odd_queries_give_at_least_themselves(databases, letters):
    (database,) = databases.glob("mgy*")
    (text,) = search([letters], database)
    assert parse_a3m(text, file="made").query == letters


_PACKED = gzip.compress(bytes(np.random.default_rng(0).choice(list(b"ACDEFGHIKLM"), 9000)).join([b">a\n", b"\n"]))
ALTERED = _PACKED[:2000] + bytes(40) + _PACKED[2040:]

BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is no database\n", "cannot be searched as a FASTA file of proteins"),
    "digits": (b">a\nMKV1\n", "cannot be searched as a FASTA file of proteins"),
    "gzip cut short": (COMPRESS[".gz"](b">a\nMKVLA\n" * 2000)[:60], "a damaged or truncated gzip file"),
    "xz cut short": (COMPRESS[".xz"](b">a\nMKVLA\n" * 2000)[:-30], "a damaged or truncated xz file"),
    "zstd cut short": (COMPRESS[".zst"](b">a\nMKVLA\n" * 2000)[:-9], "a damaged or truncated zstd file"),
    "altered gzip": (ALTERED, "cannot be searched as a FASTA file of proteins"),
    "nothing packed": (COMPRESS[".gz"](b""), "cannot be searched as a FASTA file of proteins .*empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_no_database(tmp_path, case):
    content, message = BROKEN[case]
    path = tmp_path / "broken.fasta"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        search(["MKVLAAGIV"], path)
    assert str(path) in str(raised.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_file_gives_blocks_or_a_user_error(tmp_path_factory, data):
    whole = b">a b\nMKVLAAG\n>c\nGGST\nTKW\n" * 30
    whole = data.draw(st.sampled_from([bytes, *COMPRESS.values()]))(whole)
    at, cut = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 60))
    path = tmp_path_factory.mktemp("fuzz") / "x.fasta"
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=20)) + whole[at + cut :])
    with contextlib.suppress(UserError):
        for block, done, total in hmmer.read_blocks(path):
            assert len(block) and 0 < done <= total


def test_an_error_late_in_a_file_ends_the_search(databases, proteins, tmp_path, monkeypatch):
    monkeypatch.setattr(hmmer, "BLOCK_RESIDUES", 10_000)
    (database,) = databases.glob("uniprot_all*")
    path = tmp_path / "late.fasta"
    path.write_bytes(database.read_bytes() + b">bad\nMK\x07V\n")
    with pytest.raises(UserError, match=r"late\.fasta"):
        search([proteins[TRANSPORTER].sequence], path)
