"""The index: what it says, that it goes on where it was stopped, and that what is broken is named."""

import os
import subprocess
import sys

import cif
import numpy as np
import pytest

from fastfold_jax.data.training.records import ChainEntry, FileEntry, assign, line, parse_line, read_index, unusable
from fastfold_jax.errors import UserError
from fastfold_jax.training import index as command
from fastfold_jax.training.index import IndexConfig, build_index, main


def dataset(tmp_path, names=("1aaa", "1bbb", "1ccc")):
    rng = np.random.default_rng(1)
    letters = {name: {"A": cif.random_letters(rng, 20), "B": cif.random_letters(rng, 15)} for name in names}
    return cif.write_dataset(tmp_path, letters), letters


def test_what_an_index_says(tmp_path):
    path, letters = dataset(tmp_path)
    index = read_index(path)
    assert index.structures == tmp_path / "structures" and index.alignments == tmp_path / "alignments"
    assert [entry.name for entry in index.files] == ["1aaa", "1bbb", "1ccc"]
    entry = index.files[1]
    assert (entry.release_date, entry.resolution, entry.method) == ("2010-05-04", 2.0, "X-RAY DIFFRACTION")
    chain = entry.chains[1]
    assert (chain.label, chain.author, chain.length, chain.resolved) == ("Bx", "B", 15, 15)
    assert chain.composition[0] == letters["1bbb"]["B"].count("A") and sum(chain.composition) == 15
    assert chain.alignment == "1bbb_B"


def test_the_whole_may_be_moved(tmp_path):
    dataset(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_index(tmp_path / "there" / "index.jsonl").structures == tmp_path / "there" / "structures"


def test_real_entries(shared_data, tmp_path):
    config = IndexConfig(
        structures=shared_data / "mmcif", alignments=shared_data / "msa", out=tmp_path / "index.jsonl", workers=2
    )
    index = build_index(config)
    assert not unusable(index.files) and read_index(config.out).files == index.files
    found = {entry.name: entry for entry in index.files}
    assert [chain.alignment for chain in found["2q2k"].chains] == ["2q2k_A", "2q2k_B"]
    assert len(found["5kc1"].chains) == 12


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    path, _ = dataset(tmp_path)
    finished = path.read_text()
    path.unlink()
    config = IndexConfig(structures=tmp_path / "structures", alignments=tmp_path / "alignments", out=path, workers=1)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(config, progress=stop)
    assert not path.exists()
    journal = path.with_name("index.jsonl.partial")
    with journal.open("a") as stream:
        stream.write('{"file":"1ccc.cif","si')  # killed in the middle of a line
    read = []
    monkeypatch.setattr(command, "read_structure", lambda file: read.append(file.name) or real(file))
    build_index(config)
    assert read == ["1ccc.cif"] and path.read_text() == finished and not journal.exists()


real = command.read_structure


def test_only_what_is_new_is_read_again(tmp_path, monkeypatch):
    path, _ = dataset(tmp_path)
    config = IndexConfig(structures=tmp_path / "structures", alignments=tmp_path / "alignments", out=path, workers=1)
    cif.write(tmp_path / "structures" / "1ddd.cif", cif.structure({"A": cif.codes("ACDEF")}))
    os.utime(tmp_path / "structures" / "1bbb.cif", ns=(1, 1))
    (tmp_path / "structures" / "1aaa.cif").unlink()
    read = []
    monkeypatch.setattr(command, "read_structure", lambda file: read.append(file.name) or real(file))
    index = build_index(config)
    assert read == ["1bbb.cif", "1ddd.cif"]
    assert [entry.name for entry in index.files] == ["1bbb", "1ccc", "1ddd"]


def test_several_processes_find_the_same(tmp_path):
    path, _ = dataset(tmp_path, [f"1{number:03}" for number in range(40)])
    alone = path.read_text()
    path.unlink()
    build_index(
        IndexConfig(structures=tmp_path / "structures", alignments=tmp_path / "alignments", out=path, workers=2)
    )
    assert path.read_text() == alone


def test_broken_files_are_kept_with_the_reason(tmp_path, caplog):
    path, _ = dataset(tmp_path)
    broken = tmp_path / "structures" / "1bbb.cif"
    broken.write_bytes(broken.read_bytes()[:900])
    index = build_index(IndexConfig(structures=tmp_path / "structures", out=path, workers=1))
    assert list(unusable(index.files)) == ["1bbb.cif"] and "truncated" in index.files[1].error
    assert len(read_index(path).files[0].chains) == 2
    command.summarise(index)
    assert "1bbb.cif: a truncated mmCIF" in caplog.text


def test_clusters_and_duplicates(tmp_path):
    (tmp_path / "clusters.txt").write_text("1AAA_A 1bbb_A\n1aaa_B\n")
    (tmp_path / "duplicates.txt").write_text("1aaa_A 1ccc_B\n")
    path, _ = dataset(tmp_path)
    for name in (tmp_path / "alignments").iterdir():
        if name.name != "1aaa_A":
            name.joinpath("bfd_uniclust_hits.a3m").unlink()
            name.rmdir()
    config = IndexConfig(
        structures=tmp_path / "structures",
        alignments=tmp_path / "alignments",
        clusters=tmp_path / "clusters.txt",
        duplicates=tmp_path / "duplicates.txt",
        out=path,
        workers=1,
    )
    found = {f"{entry.name}_{chain.author}": chain for entry in build_index(config).files for chain in entry.chains}
    clusters = {name: chain.cluster for name, chain in found.items()}
    assert clusters["1aaa_A"] == clusters["1bbb_A"] != clusters["1aaa_B"] is not None
    assert clusters["1bbb_B"] is None
    assert {name: chain.alignment for name, chain in found.items() if chain.alignment} == {
        "1aaa_A": "1aaa_A",
        "1ccc_B": "1aaa_A",
    }


def test_clusters_of_entities():
    """A file whose names all end in numbers, as RCSB's, is of entities: chains may be called like another's entity."""
    chains = (chain_entry(author="2", entity="1"), chain_entry(author="1", entity="2"))
    entry = FileEntry(file="1abc.cif", size=1, mtime_ns=1, chains=chains)
    (of_entities,) = assign([entry], [("1ABC_1", "9XYZ_1"), ("1ABC_2",)])
    assert [chain.cluster for chain in of_entities.chains] == ["1ABC_1", "1ABC_2"]
    (of_chains,) = assign([entry], [("1abc_1", "9xyz_A"), ("1abc_2",)])
    assert [chain.cluster for chain in of_chains.chains] == ["1abc_2", "1abc_1"]


def chain_entry(*, author: str, entity: str) -> ChainEntry:
    return ChainEntry(label=f"L{entity}", author=author, entity=entity, length=5, resolved=5, composition=(5,))


def test_lines_and_entries_are_the_same(tmp_path):
    path, _ = dataset(tmp_path)
    entries = [*read_index(path).files, FileEntry(file="x.cif", size=3, mtime_ns=4, error="x.cif: no")]
    for entry in entries:
        assert parse_line(line(entry)) == entry


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not an index"), ("{}\n", "not an index"), ("hello\n", "not an index"), (None, "no such index")],
)
def test_what_is_no_index(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError, match=rf"x\.jsonl: {message}"):
        read_index(tmp_path / "x.jsonl")


def test_a_damaged_line_is_named(tmp_path):
    path, _ = dataset(tmp_path)
    path.write_text(path.read_text().replace('"1bbb.cif"', "1bbb"))
    with pytest.raises(UserError, match="line 3: a damaged index"):
        read_index(path)


def test_the_command(tmp_path, capsys):
    path, _ = dataset(tmp_path)
    structures = str(tmp_path / "structures")
    assert main([structures, "--out", str(path), "--workers", "1"]) == 0
    assert main([str(tmp_path / "nowhere"), "--out", str(path)]) == 2
    assert "nowhere: no such directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--out", str(path)]) == 2
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.cif").write_text("data_a\nloop_\n_x.a\n_x.b\n1\n")
    assert main([str(tmp_path / "broken"), "--out", str(tmp_path / "b.jsonl")]) == 2
    assert "none of 1 files can be used" in capsys.readouterr().err


def test_bad_options_take_one_line(tmp_path, capsys):
    assert main([str(tmp_path), "--out", "x.jsonl", "--worker", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == "python -m fastfold_jax.training.index: error: --worker: no such option, perhaps --workers; see --help"
    )


def test_the_command_loads_no_jax(tmp_path):
    code = "import fastfold_jax.training.index, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
