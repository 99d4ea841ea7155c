"""What is looked for before a search, and what of it a change shows in."""

import os
import shutil

import pytest

from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.job_chains import Job, chains_of
from fastfold_jax.errors import UserError
from fastfold_jax.search import check, fingerprint, hmmer, require
from fastfold_jax.search.config import SearchOptions, TemplateOptions


def job(**changes) -> Job:
    (chain,) = chains_of([Record(description="A", sequence="GAMK")])
    return Job(name="x", chains=(type(chain)(**{**vars(chain), **changes}),))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("custom_templates", ("{}",)),
        ("custom_templates", ("A={}:B",)),
        ("template_hits", ("{}",)),
        ("template_sequences", "{}"),
        ("obsolete_pdbs", "{}"),
    ],
)
def test_files_that_are_not_there(tmp_path, option, value):
    missing = tmp_path / "nowhere"
    if option == "custom_templates":
        value = tuple(text.format(missing) for text in value)
    else:
        value = (missing,) if isinstance(value, tuple) else missing
    options = TemplateOptions(template_mmcif=tmp_path, **{option: value})
    with pytest.raises(UserError, match=f"^--{option.replace('_', '-')} .*nowhere.*: no such file"):
        check(SearchOptions(), options)


def test_what_is_there_is_no_error(shared_data, tmp_path):
    for name in ("t.pdb", "hits.hhr", "seqres.fasta"):
        (tmp_path / name).write_text(">x\nGA\n")
    (tmp_path / "obsolete.dat").write_text("OBSLTE    26-SEP-06 2H33     2JM5\n")
    options = TemplateOptions(
        template_mmcif=shared_data / "mmcif",
        custom_templates=(f"A={tmp_path / 't.pdb'}:B", str(tmp_path / "t.pdb")),
        template_hits=(tmp_path / "hits.hhr",),
        template_sequences=tmp_path / "seqres.fasta",
        obsolete_pdbs=tmp_path / "obsolete.dat",
    )
    check(SearchOptions(databases=(tmp_path / "seqres.fasta",)), options)


def test_every_change_of_what_is_read_shows(tmp_path):
    """Content of single files, whatever their dates; a file more or another date in what is too large to be read."""
    databases, structures = tmp_path / "databases", tmp_path / "mmcif"
    for directory in (databases, structures):
        directory.mkdir()
    single = [tmp_path / name for name in ("t.pdb", "hits.hhr", "seqres.fasta", "obsolete.dat")]
    for file in (*single, databases / "uniref90.fasta", structures / "1abc.cif"):
        file.write_text("first")
    search = SearchOptions(databases=(databases,))
    templates = TemplateOptions(
        template_mmcif=structures,
        custom_templates=(f"{single[0]}:A",),
        template_hits=(single[1],),
        template_sequences=single[2],
        obsolete_pdbs=single[3],
    )
    seen = [fingerprint(search, templates)]
    assert fingerprint(search, templates) == seen[0]
    os.utime(single[0], ns=(1, 1))
    assert fingerprint(search, templates) == seen[0]
    for file in single:
        file.write_text("other")
        seen.append(fingerprint(search, templates))
    for file in (databases / "uniref90.fasta", structures / "1abc.cif"):
        os.utime(file, ns=(1, 1))
        seen.append(fingerprint(search, templates))
        shutil.copy(file, file.with_name(f"2{file.name}"))
        seen.append(fingerprint(search, templates))
    assert len(set(seen)) == len(seen)


@pytest.fixture
def databases(tmp_path):
    for name in ("uniref90.fasta", "clusters.dbtype", "bfd_a3m.ffdata"):
        (tmp_path / name).write_text(">a\nGA\n")
    return tmp_path


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("uniref90.fasta", "needs pyhmmer"),
        ("clusters", "--mmseqs nowhere: no such program"),
        ("bfd", "--hhblits nowhere: no such program"),
    ],
)
def test_programs_that_are_needed(databases, monkeypatch, database, message):
    def absent(name):
        raise hmmer.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(hmmer.metadata, "version", absent)
    search = SearchOptions(databases=(databases / database,), mmseqs="nowhere", hhblits="nowhere")
    with pytest.raises(UserError, match=message):
        require(job(), search, TemplateOptions())
    aligned = parse_a3m(b">x\nGAMK\n", file="x.a3m")
    require(job(alignments=(aligned,)), search, TemplateOptions())
    require(Job(name="x", chains=(), features={}), search, TemplateOptions())
    require(job(), SearchOptions(databases=search.databases, msa="none"), TemplateOptions())
    with pytest.raises(UserError, match="needs pyhmmer"):
        require(job(), SearchOptions(), TemplateOptions(template_mmcif=databases))
    require(job(hits=(databases / "pdb_hits.hhr",)), SearchOptions(), TemplateOptions(template_mmcif=databases))


def test_templates_for_no_chain_of_the_job(tmp_path):
    (tmp_path / "t.pdb").write_text("")
    require(job(), SearchOptions(), TemplateOptions(custom_templates=(f"A={tmp_path}/t.pdb",)))
    with pytest.raises(UserError, match="nor is Q a chain of the job"):
        require(job(), SearchOptions(), TemplateOptions(custom_templates=(f"Q={tmp_path}/t.pdb",)))


def test_databases_of_which_none_serves(tmp_path):
    (tmp_path / "pdb_seqres.fasta").write_text(">a\nGA\n")
    with pytest.raises(UserError, match="holds no database for alignments"):
        require(job(), SearchOptions(databases=(tmp_path,)), TemplateOptions())
