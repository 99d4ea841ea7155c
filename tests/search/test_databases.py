"""Databases: found by their files, told apart, and recognised when they change."""

import os

import pytest

from fastfold_jax.errors import UserError
from fastfold_jax.search.databases import find_databases


def make(directory, *names):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(">a\nMKV\n")


def found(*paths):
    return {each.path.name: (each.kind, each.source, each.templates) for each in find_databases(paths)}


def test_a_directory_of_all_kinds(tmp_path):
    make(tmp_path, "uniref90/uniref90.fasta", "mgnify/mgy_clusters_2022_05.fa.gz", "uniprot.fasta", "swissprot.faa")
    make(tmp_path, "pdb_seqres/pdb_seqres.fasta", "notes.txt", ".hidden.fasta", "query.a3m")
    for part in ("a3m", "hhm", "cs219"):
        make(tmp_path, f"bfd/bfd_metaclust_{part}.ffdata", f"bfd/bfd_metaclust_{part}.ffindex")
    for part in ("", ".dbtype", "_h.dbtype", "_seq.dbtype", "_aln.dbtype"):
        make(tmp_path, f"mm/uniref30_2302_db{part}")
    assert found(tmp_path) == {
        "uniref90.fasta": ("fasta", "uniref90", False),
        "mgy_clusters_2022_05.fa.gz": ("fasta", "mgnify", False),
        "uniprot.fasta": ("fasta", "uniprot", False),
        "swissprot.faa": ("fasta", "other", False),
        "pdb_seqres.fasta": ("fasta", "other", True),
        "bfd_metaclust": ("hhsuite", "bfd", False),
        "uniref30_2302_db": ("mmseqs", "bfd", False),
    }


def test_sample_databases(databases):
    sources = [database.source for database in find_databases([databases]) if not database.templates]
    assert sorted(sources) == ["bfd", "mgnify", "uniprot", "uniref90"]


@pytest.mark.parametrize("given", ["bfd", "bfd_a3m.ffdata"])
def test_a_prefix_or_one_of_its_files(tmp_path, given):
    make(tmp_path, "bfd_a3m.ffdata")
    assert found(tmp_path / given) == {"bfd": ("hhsuite", "bfd", False)}


def test_each_is_found_once(tmp_path):
    make(tmp_path, "a.fasta")
    assert len(find_databases([tmp_path, tmp_path / "a.fasta", tmp_path])) == 1


@pytest.mark.parametrize("given", ["missing", "empty", "job.a3m"])
def test_what_is_none(tmp_path, given):
    (tmp_path / "empty").mkdir()
    make(tmp_path, "job.a3m")
    with pytest.raises(UserError, match=f"--databases .*{given}.*accepted are FASTA files"):
        find_databases([tmp_path / given])


def test_a_fingerprint_follows_the_files(tmp_path):
    make(tmp_path, "a.fasta", "bfd_a3m.ffdata", "bfd_hhm.ffdata")
    for path, file in ((tmp_path / "a.fasta", "a.fasta"), (tmp_path / "bfd", "bfd_hhm.ffdata")):
        (database,) = find_databases([path])
        before = database.fingerprint()
        assert database.fingerprint() == before
        os.utime(tmp_path / file, ns=(1, 1))
        assert database.fingerprint() != before
