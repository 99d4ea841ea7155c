"""MMseqs2 and HH-suite: command lines, checked by programs that stand in for them, and what is said when they fail."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from targets import job_of

from fastfold_jax.data.fasta import Record
from fastfold_jax.errors import UserError
from fastfold_jax.search.alignments import complete
from fastfold_jax.search.config import SearchOptions
from fastfold_jax.search.hhsuite import HHblits
from fastfold_jax.search.mmseqs import MMseqs

QUERIES = [Record(description="first", sequence="MKVLAAGIVRK"), Record(description="second", sequence="GGSTTKW")]

HHBLITS = """
import sys
arguments = dict(zip(sys.argv[1:-1], sys.argv[2:]))
query = open(arguments["-i"]).read()
open(LOG, "a").write(" ".join(sys.argv[1:]) + "\\n")
open(arguments["-oa3m"], "w").write(query + ">hit\\n" + query.split()[1].lower() + query.split()[1] + "\\n")
"""

MMSEQS = """
import os, sys
open(LOG, "a").write(" ".join(sys.argv[1:]) + "\\n")
step, *given = sys.argv[1:]
files = [word for word in given if not word.startswith("--")]
if step == "version":
    print("15-6f452")
elif step == "createdb":
    open(given[1], "w").write(open(given[0]).read())
    open(given[1] + "_h", "w").write("")
elif step == "search":
    assert os.path.exists(given[0])
    open(given[2], "w").write(open(given[0]).read())
    os.makedirs("tmp/latest")
    open("tmp/latest/profile_1", "w").write("profile")
elif step in ("mvdb", "lndb"):
    os.rename(*given[:2])
elif step in ("expandaln", "align", "filterresult", "result2msa"):
    source, target = {"expandaln": (2, 4), "align": (2, 3), "filterresult": (2, 3), "result2msa": (2, 3)}[step]
    open(given[target], "w").write(open(given[source]).read())
elif step == "unpackdb":
    for number, block in enumerate(open(given[0]).read().split(">")[1:]):
        open(f"{given[1]}/{number}{given[-1]}", "w").write(">" + block + ">hit\\n" + block.split()[1] + "\\n\\0")
"""


@pytest.fixture
def stand_in(tmp_path):
    """Makes an executable of a Python program; what it is called with goes to `tmp_path / "log"`."""

    def make(name: str, text: str) -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nLOG = {str(tmp_path / 'log')!r}\n{text}")
        path.chmod(0o755)
        return str(path)

    return make


def database(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        (directory / name).write_text("x")
    return directory


def test_hhblits_searches_all_its_databases_at_once(stand_in, tmp_path):
    folder = database(tmp_path / "db", "bfd_a3m.ffdata", "uniref30_a3m.ffdata")
    options = SearchOptions(
        databases=(folder,), search_cache=tmp_path / "cache", hhblits=stand_in("hhblits", HHBLITS), search_threads=3
    )
    done = complete(job_of(*QUERIES), options)
    for chain, record in zip(done.chains, QUERIES, strict=True):
        (alignment,) = chain.alignments
        assert alignment.source == "bfd" and alignment.query == record.sequence
        assert alignment.deletions[1, 0] == len(record.sequence)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 2
    words = lines[0].split()
    assert [words[i + 1] for i, word in enumerate(words) if word == "-d"] == [f"{folder}/bfd", f"{folder}/uniref30"]
    for option in ("-n 3", "-e 0.001", "-maxseq 1000000", "-realign_max 100000", "-maxfilt 100000", "-cpu 3"):
        assert option in lines[0]
    assert "-min_prefilter_hits 1000" in lines[0] and "-o /dev/null" in lines[0]
    complete(job_of(*QUERIES), options)
    assert len((tmp_path / "log").read_text().splitlines()) == 2  # kept


PLAIN = ("createdb", "search", "result2msa", "unpackdb")
CLUSTERS = ("createdb", "search", "mvdb", "lndb", "expandaln", "align", "filterresult", "result2msa", "unpackdb")


@pytest.mark.parametrize("kind", ["plain", "clusters", "indexed clusters"])
def test_mmseqs_searches_all_queries_in_one_run(stand_in, tmp_path, kind):
    names = ["uniref30_db", "uniref30_db.dbtype"]
    names += ["uniref30_db_seq.dbtype", "uniref30_db_aln.dbtype"] if kind != "plain" else []
    names += ["uniref30_db.idx"] if kind == "indexed clusters" else []
    folder = database(tmp_path / "db", *names)
    options = SearchOptions(
        databases=(folder,), search_cache=tmp_path / "cache", mmseqs=stand_in("mmseqs", MMSEQS), search_threads=3
    )
    done = complete(job_of(*QUERIES), options)
    for chain, record in zip(done.chains, QUERIES, strict=True):
        (alignment,) = chain.alignments
        assert alignment.query == record.sequence and len(alignment.residues) == 2
    steps = [line.split() for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("version")]
    assert tuple(step[0] for step in steps) == (PLAIN if kind == "plain" else CLUSTERS)
    by_name = {step[0]: step for step in steps}
    target = f"{folder}/uniref30_db"
    assert by_name["search"][1:5] == ["query", target, "hits", "tmp"] and "--threads 3" in " ".join(by_name["search"])
    assert by_name["createdb"][-2:] == ["--shuffle", "0"]
    members = {"plain": target, "clusters": f"{target}_seq", "indexed clusters": f"{target}.idx"}[kind]
    assert by_name["result2msa"][2] == members
    if kind == "clusters":
        assert by_name["expandaln"][1:6] == ["query", f"{target}_seq", "hits", f"{target}_aln", "expanded"]
    assert "--msa-format-mode 6" in " ".join(by_name["result2msa"])


@pytest.mark.parametrize(("kind", "option"), [("x_a3m.ffdata", "--hhblits"), ("x.dbtype", "--mmseqs")])
def test_a_missing_program(tmp_path, kind, option):
    folder = database(tmp_path / "db", kind)
    options = SearchOptions(databases=(folder,), hhblits="no-such-program", mmseqs="no-such-program")
    with pytest.raises(UserError, match=f"{option} no-such-program: no such program; install "):
        complete(job_of(*QUERIES), options)


FAILURES = {
    "status": (
        "import sys; sys.stderr.write('first\\nout of memory\\n'); sys.exit(3)",
        "exit status 3: first | out of",
    ),
    "silent": ("import sys; sys.exit(1)", "it said nothing"),
    "no result": ("", "made no alignment"),
    "rubbish": (HHBLITS.replace('query + ">hit', '"rubbish" + ">hit'), "not an A3M file"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_program_that_fails(stand_in, tmp_path, case):
    text, message = FAILURES[case]
    folder = database(tmp_path / "db", "bfd_a3m.ffdata")
    options = SearchOptions(databases=(folder,), search_cache=tmp_path / "cache", hhblits=stand_in("hhblits", text))
    with pytest.raises(UserError) as raised:
        complete(job_of(QUERIES[0]), options)
    assert message in str(raised.value)
    assert not list((tmp_path / "cache").rglob("*.gz"))  # nothing of it is kept


def test_programs_on_the_path(stand_in, monkeypatch, tmp_path):
    stand_in("hhblits", HHBLITS)
    stand_in("mmseqs", MMSEQS)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert HHblits("hhblits", threading.Event()).version().startswith("hhblits ")
    assert MMseqs("mmseqs", threading.Event()).version() == "mmseqs 15-6f452"
    (tmp_path / "text").write_text("no program")
    with pytest.raises(UserError, match="no such program"):
        HHblits(str(tmp_path / "text"), threading.Event())


def test_an_error_elsewhere_ends_a_program(stand_in, tmp_path):
    folder = database(tmp_path / "db", "bfd_a3m.ffdata")
    (folder / "broken.fasta").write_text("no FASTA")
    slow = stand_in("hhblits", "import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"broken\.fasta"):
        complete(job_of(QUERIES[0]), SearchOptions(databases=(folder,), no_search_cache=True, hhblits=slow))
    assert time.monotonic() - start < 10
