"""Files packed by gzip, xz or zstd are read as the plain ones, wherever they are; damaged ones are told."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from packers import COMPRESS, zstd

from fastfold_jax.data import layout
from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.data.structure import is_structure, structure_name
from fastfold_jax.data.template_selection import Library
from fastfold_jax.data.textfile import PACKED, InputError, read_bytes, read_head


def pack_zstd(data: bytes) -> bytes:
    """As the program `zstd` does, which unlike the package's functions adds a checksum by itself."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: True})


# The program of each suffix, and what packs as it does.
PACKERS = {".gz": ("gzip", COMPRESS[".gz"]), ".xz": ("xz", COMPRESS[".xz"]), ".zst": ("zstd", pack_zstd)}
A, B = "ACDEFG", "KLMNP"
A3M = f">q\n{A}\n>hit one\nAC-EFwwG\n"
STO = f"# STOCKHOLM 1.0\nq {A}\nhit/1-5 AC-EFG\n//\n"
HIT = f">1abc_A/1-6 [subseq from] mol:protein length:6\n{A}\n"


def npz(suffix: str) -> bytes:
    file = io.BytesIO()
    np.savez(file, aatype=np.zeros(2), msa=np.zeros((1, 2)))
    return file.getvalue()


def document(suffix: str) -> bytes:
    paths = {"unpairedMsaPath": f"own.a3m{suffix}", "pairedMsaPath": f"pairs.a3m{suffix}"}
    first = {"protein": {"id": ["A", "B"], "sequence": A, **paths}}
    return json.dumps({"name": "x", "sequences": [first, {"protein": {"id": "C", "sequence": B}}]}).encode()


# What a job is made of: the file to give, or "" for the directory, and all files, plain.
JOBS = {
    "FASTA": ("x.fasta", {"x.fasta": f">one\n{A}:{B}\n"}),
    "a table": ("x.csv", {"x.csv": f"id,sequence\none,{A}\n"}),
    "A3M": ("uniref90.a3m", {"uniref90.a3m": A3M}),
    "a complex A3M": ("x.a3m", {"x.a3m": f"#6,5\t2,1\n>101\t102\n{A}{B}\n>a\tb\n{A}{B}\n>c\nAC---------\n"}),
    "Stockholm": ("x.sto", {"x.sto": STO}),
    "features": ("x.npz", {"x.npz": npz}),
    "AlphaFold 3's JSON": ("x.json", {"x.json": document, "own.a3m": A3M, "pairs.a3m": A3M}),
    "a directory": ("", {"x.fasta": f">q\n{A}\n", "uniref90_hits.sto": STO, "bfd.a3m": A3M, "pdb_hits.a3m": HIT}),
    "chains": ("", {"A/mgnify_hits.sto": STO, "B/x.a3m": f">b\n{B}\n", "B/pdb_hits.a3m": HIT}),
}


def write(directory, kind, suffix):
    """Makes a job's files, packed if they are to be, and returns what to give as input."""
    given, files = JOBS[kind]
    for name, content in files.items():
        path = directory / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content(suffix) if callable(content) else content.encode()
        path.write_bytes(PACKERS[suffix][1](data) if suffix else data)
    return directory / (given + suffix) if given else directory


def alignment(given):
    return given and (given.query, given.source, given.descriptions, given.residues.tolist(), given.deletions.tolist())


def contents(path):
    """All that the jobs of an input hold, and the sequences that are foretold without reading them."""
    held = []
    for source in find_jobs([path]):
        job = source.read()
        chains = [
            (
                *(chain.id, chain.sequence, alignment(chain.paired), [alignment(own) for own in chain.alignments]),
                [layout.stem(hits) for hits in chain.hits],
            )
            for chain in job.chains
        ]
        features = {name: array.tolist() for name, array in (job.features or {}).items()}
        held.append((job.name, source.num_res, chains, features))
    return held


@pytest.mark.parametrize("kind", JOBS)
def test_a_packed_job_is_the_plain_one(tmp_path, kind):
    expected = contents(write(tmp_path / "plain" / "job", kind, ""))
    assert expected
    for suffix in PACKED:
        assert contents(write(tmp_path / suffix / "job", kind, suffix)) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), suffix=st.sampled_from(PACKED), parts=st.integers(1, 3))
@example(data=b"", suffix=".zst", parts=1)
def test_unpacked_is_what_was_packed(tmp_path, data, suffix, parts):
    path = tmp_path / "no suffix says it"
    path.write_bytes(PACKERS[suffix][1](data) * parts)  # also as several files one behind the other
    assert read_bytes(path) == data * parts
    assert read_head(path, 7) == (data * parts)[:7]


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("kind", ["FASTA", "A3M", "Stockholm", "AlphaFold 3's JSON"])
def test_truncated_and_altered_files_are_told(tmp_path, kind, suffix):
    whole = write(tmp_path, kind, suffix)
    path = tmp_path / f"own.a3m{suffix}" if "JSON" in kind else whole
    data = path.read_bytes()
    for damaged in (data[:-3], data[: len(data) // 2], data[:-8] + bytes(8)):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as error:
            contents(whole)
        assert str(error.value).startswith(f"{path}: a damaged or truncated {PACKERS[suffix][0]} file (")


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_structures(shared_data, tmp_path, suffix):
    path = tmp_path / f"3u8v.cif{suffix}"
    path.write_bytes(PACKERS[suffix][1]((shared_data / "mmcif" / "3u8v.cif").read_bytes()))
    assert is_structure(path) and structure_name(path) == "3u8v"
    assert Library(directory=tmp_path).read("3u8v").polymers


def test_what_unpacks_zstd_may_be_missing(tmp_path, monkeypatch):
    path = tmp_path / "x.fasta.zst"
    path.write_bytes(zstd.compress(b">a\nAC\n"))
    for package in ("backports", "compression"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"x\.fasta\.zst: packed by zstd, which needs .*fastfold-jax\[zstd\]"):
        read_bytes(path)
