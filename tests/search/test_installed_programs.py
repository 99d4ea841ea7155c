"""MMseqs2 and HH-suite themselves, where they are installed, over databases that they make of one family."""

import os
import shutil
import subprocess
import threading

import numpy as np
import pytest

from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.search.hhsuite import HHblits
from fastfold_jax.search.mmseqs import MMseqs
from fastfold_jax.search.report import silent

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
MEMBERS = 40
# HH-suite 3 comes with it, but not every package puts it on the PATH.
CSTRANSLATE = shutil.which("cstranslate") or shutil.which("cstranslate-plain", path="/usr/libexec/hhsuite")


@pytest.fixture(scope="module")
def family():
    """A sequence, and others of which 30 to 60 % of the letters differ."""
    draw = np.random.default_rng(11)
    query = draw.choice(list(LETTERS), 150)
    members = []
    for _ in range(MEMBERS):
        changed = draw.random(len(query)) < draw.uniform(0.3, 0.6)
        members.append("".join(np.where(changed, draw.choice(list(LETTERS), len(query)), query)))
    return "".join(query), members


def _fasta(path, members):
    path.write_text("".join(f">s{number}\n{member}\n" for number, member in enumerate(members)))


def _run(*command, cwd):
    subprocess.run([str(word) for word in command], cwd=cwd, check=True, capture_output=True, timeout=60)


def _finds_the_family(text, query):
    found = parse_a3m(text, file="found.a3m")
    assert found.query == query
    assert len(found.residues) > MEMBERS // 2
    assert (found.residues[:, :10] == found.residues[0, :10]).mean() > 0.4  # aligned, not shifted


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="needs mmseqs")
@pytest.mark.parametrize("clusters", [False, True], ids=["sequences", "clusters"])
def test_mmseqs(tmp_path, family, clusters):
    query, members = family
    _fasta(tmp_path / "family.fasta", members)
    mmseqs = lambda *words: _run("mmseqs", *words, "-v", "1", cwd=tmp_path)  # noqa: E731
    mmseqs("createdb", "family.fasta", "uniref30_seq" if clusters else "uniref90")
    if clusters:  # as ColabFold has them: representatives, members, and how those align
        mmseqs("cluster", "uniref30_seq", "found", "tmp", "--min-seq-id", "0.4", "-c", "0.8")
        mmseqs("createsubdb", "found", "uniref30_seq", "uniref30")
        mmseqs("createsubdb", "found", "uniref30_seq_h", "uniref30_h")
        mmseqs("align", "uniref30_seq", "uniref30_seq", "found", "uniref30_aln", "-a")
    database = tmp_path / ("uniref30" if clusters else "uniref90")
    program = MMseqs("mmseqs", threading.Event())
    assert program.version().startswith("mmseqs ")
    whole, half = program.search([query, query[:80]], [database], 1, silent)
    _finds_the_family(whole, query)
    _finds_the_family(half, query[:80])


@pytest.mark.skipif(shutil.which("hhblits") is None or CSTRANSLATE is None, reason="needs hhblits and cstranslate")
def test_hhblits(tmp_path, family):
    query, members = family
    for folder in ("a3m", "hhm"):
        (tmp_path / folder).mkdir()
    for number, member in enumerate(members):
        name = f"s{number}.a3m"
        (tmp_path / "a3m" / name).write_text(f">s{number}\n{member}\n")
        _run("hhmake", "-i", f"a3m/{name}", "-o", f"hhm/{name}", "-v", "0", cwd=tmp_path)
    for kind in ("a3m", "hhm"):
        _run("ffindex_build", "-s", f"bfd_{kind}.ffdata", f"bfd_{kind}.ffindex", kind, cwd=tmp_path)
    data = os.environ.get("HHLIB", "/usr/share/hhsuite") + "/data"
    states = ("-A", f"{data}/cs219.lib", "-D", f"{data}/context_data.lib")
    how = ("-f", "-b", "-x", "0.3", "-c", "4", "-I", "a3m")
    _run(CSTRANSLATE, *how, "-i", "bfd_a3m", "-o", "bfd_cs219", *states, cwd=tmp_path)
    (text,) = HHblits("hhblits", threading.Event()).search([query], [tmp_path / "bfd"], 1, silent)
    _finds_the_family(text, query)
