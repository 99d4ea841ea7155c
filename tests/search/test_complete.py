"""Completing jobs: real searches, searched once, kept, paired, and never begun where nothing is to be done."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
from targets import REGULATOR, TRANSPORTER, job_of

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import GAP
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job_chains import Job
from fastfold_jax.errors import UserError
from fastfold_jax.search import alignments as searching
from fastfold_jax.search.alignments import complete
from fastfold_jax.search.config import SearchOptions

pytest.importorskip("pyhmmer")


@pytest.fixture
def searches(monkeypatch):
    """How many sequences each database is searched for."""
    made = []
    search = searching.search_alignments

    def counted(sequences, database, **how):
        made.append((database.name.split("_")[0], len(sequences)))
        return search(sequences, database, **how)

    monkeypatch.setattr(searching, "search_alignments", counted)
    return made


def test_a_single_chain(options, proteins, searches):
    done = complete(job_of(proteins[REGULATOR]), options)
    (chain,) = done.chains
    assert [alignment.source for alignment in chain.alignments] == ["uniref90", "bfd", "mgnify"]
    assert chain.paired is None  # UniProt serves pairing, and there is nothing to pair with
    assert all(len(alignment.residues) > 2 and alignment.query == chain.sequence for alignment in chain.alignments)
    assert sorted(searches) == [("bfd-first", 1), ("mgy", 1), ("uniref90", 1)]
    raw = assemble(done, preset("model_1_ptm"))
    assert raw.num_rows > 10 and raw.num_res == len(chain.sequence)


def test_a_search_that_finds_nothing_is_told_of(options, proteins, caplog):
    nothing = dataclasses.replace(job_of(proteins[REGULATOR]).chains[0], sequence="GSGSGSGSGSGSGSGSGSGS")
    done = complete(Job(name="x", chains=(nothing,)), options)
    assert [len(alignment.residues) for alignment in done.chains[0].alignments] == [1, 1, 1]
    assert f"x: the search found nothing but {nothing.id} itself: predicted from sequence alone" in caplog.text
    caplog.clear()
    complete(job_of(proteins[REGULATOR]), options)
    assert "nothing but" not in caplog.text


def test_results_are_kept(options, proteins, searches):
    first = complete(job_of(proteins[REGULATOR]), options)
    count = len(searches)
    again = complete(job_of(proteins[REGULATOR]), options)
    assert len(searches) == count
    for made, kept in zip(first.chains[0].alignments, again.chains[0].alignments, strict=True):
        np.testing.assert_array_equal(made.residues, kept.residues)
        np.testing.assert_array_equal(made.deletions, kept.deletions)
        assert made.descriptions == kept.descriptions
    complete(job_of(proteins[REGULATOR]), dataclasses.replace(options, max_evalue=1e-9))
    assert len(searches) == 2 * count  # another threshold is another search
    complete(job_of(proteins[REGULATOR]), dataclasses.replace(options, no_search_cache=True))
    assert len(searches) == 3 * count


def test_only_what_is_missing_is_searched(options, proteins, searches):
    complete(job_of(proteins[REGULATOR]), options)
    searches.clear()
    complete(job_of(proteins[REGULATOR], proteins[TRANSPORTER]), options)
    assert sorted(searches) == [("bfd-first", 1), ("mgy", 1), ("uniprot", 2), ("uniref90", 1)]


def test_a_damaged_result_is_made_again(options, proteins, searches):
    complete(job_of(proteins[REGULATOR]), options)
    searches.clear()
    path = next(options.cache_directory.rglob("*.gz"))
    path.write_bytes(path.read_bytes()[:40])
    done = complete(job_of(proteins[REGULATOR]), options)
    assert len(searches) == 1 and len(done.chains[0].alignments) == 3


def test_a_complex_is_paired_by_species_of_uniprot(options, proteins, searches):
    job = job_of(proteins[REGULATOR], proteins[TRANSPORTER], proteins[REGULATOR])
    done = complete(job, options)
    assert {count for _, count in searches} == {2}  # copies are searched for once
    assert [chain.id for chain in done.chains] == [chain.id for chain in job.chains]
    assert {chain.paired.source for chain in done.chains} == {"uniprot"}
    assert done.chains[0].alignments is done.chains[2].alignments or all(
        a is b for a, b in zip(done.chains[0].alignments, done.chains[2].alignments, strict=True)
    )
    assert len(assemble(done, preset("model_1_multimer_v3")).msa) > 20


def test_copies_of_one_sequence_are_not_paired(options, proteins, searches):
    done = complete(job_of(proteins[REGULATOR], proteins[REGULATOR]), options)
    assert all(chain.paired is None for chain in done.chains)
    assert "uniprot" not in dict(searches)


def test_without_uniprot_species_are_those_of_uniref90(options, databases, proteins, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    (source,) = databases.glob("uniref90*")
    text = source.read_text()
    # Relatives of both chains in one species.
    for record in (proteins[REGULATOR], proteins[TRANSPORTER]):
        name = record.description.split("|")[1]
        text += f">UniRef90_{name} A protein n=1 Tax=Some species TaxID=4711 RepID={name}_X\n{record.sequence[:-9]}\n"
    (few / "uniref90.fasta").write_text(text)
    done = complete(job_of(proteins[REGULATOR], proteins[TRANSPORTER]), dataclasses.replace(options, databases=(few,)))
    assert [chain.paired.source for chain in done.chains] == ["uniprot", "uniprot"]
    raw = assemble(done, preset("model_1_multimer_v3"))
    width = len(done.chains[0].sequence)
    joined = (raw.msa[:, :width] != GAP).any(axis=1) & (raw.msa[:, width:] != GAP).any(axis=1)
    assert joined.sum() >= 2


def test_given_alignments_are_kept(options, proteins, shared_data, searches):
    from fastfold_jax.data.job import read_job

    given = read_job(shared_data / "msa" / "cobra73").chains[0]
    own = job_of(proteins[REGULATOR]).chains[0]
    done = complete(Job(name="x", chains=(given, own)), options)
    assert done.chains[0] is given
    assert done.chains[1].alignments and done.chains[1].paired.source == "uniprot"


def test_nothing_to_do(proteins, searches, caplog, options):
    features = Job(name="x", chains=(), features={})
    assert complete(features, options) is features
    bare = job_of(proteins[REGULATOR])
    with caplog.at_level(logging.WARNING):
        assert complete(bare, SearchOptions()) is bare
        assert complete(bare, dataclasses.replace(options, msa="none")) is bare
    assert "predicted from sequence alone" in caplog.text
    assert not searches


def test_databases_that_do_not_serve(options, databases, proteins, tmp_path):
    shutil.copy(next(databases.glob("pdb_seqres*")), tmp_path / "pdb_seqres.fasta")
    with pytest.raises(UserError, match="holds no database for alignments"):
        complete(job_of(proteins[REGULATOR]), dataclasses.replace(options, databases=(tmp_path / "pdb_seqres.fasta",)))


def test_a_broken_database_ends_all_searches(options, databases, proteins, tmp_path):
    for path in databases.glob("*.fa*"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "zzz.fasta").write_text(">a\nMK1\n")
    with pytest.raises(UserError, match=r"zzz\.fasta"):
        complete(job_of(proteins[REGULATOR]), dataclasses.replace(options, databases=(tmp_path,)))


def test_without_pyhmmer(options, proteins, monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install 'fastfold-jax\[search\]'"):
        complete(job_of(proteins[REGULATOR]), options)
