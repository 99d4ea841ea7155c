"""Large Stockholm and complex A3M files: the same rows as from memory, some of them kept, in bounded memory."""

import gzip
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from fastfold_jax.data import a3m, stockholm
from fastfold_jax.data.a3m_complex import read_complex_a3m
from fastfold_jax.data.job import read_job
from fastfold_jax.data.msa import Limits
from fastfold_jax.data.stockholm import read_query, read_stockholm
from fastfold_jax.data.textfile import InputError


def interleaved(rows: list[tuple[str, str]], split: int, end: str = "\n") -> bytes:
    lines = ["# STOCKHOLM 1.0", "", *(f"#=GS {name} DE some protein" for name, _ in rows), ""]
    for start in range(0, len(rows[0][1]), split):
        for name, row in rows:
            lines += [f"{name:12} {row[start : start + split]}", f"#=GR {name} PP {'9' * split}"]
        lines += ["#=GC RF xxx", ""]
    return (end.join([*lines, "//"]) + end).encode()


def drawn(count: int, width: int) -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWYac--.."))
    rows = ["".join(row) for row in draw.choice(letters, (count, width))]
    return [(f"hit{number}/1-9", row) for number, row in enumerate(rows)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [50, 333])
def test_a_stockholm_file_is_read_in_pieces_as_at_once(tmp_path, monkeypatch, block, end):
    data = interleaved(drawn(40, 60), split=17, end=end)
    (tmp_path / "x.sto").write_bytes(data)
    whole = read_stockholm(tmp_path / "x.sto", source="mgnify", choose=np.arange)
    monkeypatch.setattr(stockholm, "_BLOCK", block)
    for name, packed in (("x.sto", data), ("x.sto.gz", gzip.compress(data)), ("bom.sto", b"\xef\xbb\xbf" + data)):
        (tmp_path / name).write_bytes(packed)
        read = read_stockholm(tmp_path / name, source="mgnify", choose=np.arange)
        assert (read.query, read.descriptions, read.source) == (whole.query, whole.descriptions, "mgnify")
        np.testing.assert_array_equal(read.residues, whole.residues)
        np.testing.assert_array_equal(read.deletions, whole.deletions)
        assert read_query(tmp_path / name) == whole.query
    some = read_stockholm(tmp_path / "x.sto", source="mgnify", choose=lambda count: np.arange(count)[::3])
    np.testing.assert_array_equal(some.residues, whole.residues[::3])
    np.testing.assert_array_equal(some.deletions, whole.deletions[::3])
    assert some.descriptions == whole.descriptions[::3]


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"hit39/1-9 A1\n//\n", r"line 290, column 12: '1' in the row 'hit39/1-9'"),
        (b"hit39/1-9 AA\n//\n", r"line 290: the row 'hit39/1-9' has 62 columns in all, but the first row has 60"),
        (b"a b c\n//\n", "line 290: 'a b c' is no row"),
        (b"", "truncated"),
        (b"x\0y\n//\n", "zero byte in line 290"),
        (b"//\n//\n", "line 291: more follows"),
    ],
)
def test_faults_have_their_line_though_rows_are_not_kept(tmp_path, monkeypatch, tail, message):
    monkeypatch.setattr(stockholm, "_BLOCK", 100)
    (tmp_path / "x.sto").write_bytes(interleaved(drawn(40, 60), split=20).removesuffix(b"//\n") + tail)
    with pytest.raises(InputError, match=message):
        read_stockholm(tmp_path / "x.sto", source="other", choose=lambda count: np.arange(1))


def complex_text(rows: int) -> str:
    """Two chains of 4 and 3 columns: queries, rows of either, and rows of both."""
    draw = np.random.default_rng(1)
    one, two = (["".join(row) for row in draw.choice(list("ACDEFG"), (rows, n))] for n in (4, 3))
    lines = ["#4,3\t2,1", ">101\t102", "ACDEKLM"]
    lines += [f">pair{i}\tpair{i}\n{a}ww{b}" for i, (a, b) in enumerate(zip(one, two, strict=True))]
    lines += [">101", "ACDE---", *(f">a{i}\n{a}---" for i, a in enumerate(one))]
    lines += [">102", "----KLM", *(f">b{i}\n----{b}" for i, b in enumerate(two))]
    return "\n".join(lines) + "\n"


def test_a_complex_is_read_in_pieces_as_at_once(tmp_path, monkeypatch):
    path = tmp_path / "x.a3m"
    path.write_text(complex_text(30))
    whole = read_complex_a3m(path, choose=lambda source, count: np.arange(count))
    monkeypatch.setattr(a3m, "_BLOCK", 40)
    read = read_complex_a3m(path, choose=lambda source, count: np.arange(count))
    some = read_complex_a3m(path, choose=lambda source, count: np.arange(min(count, 5 if source == "paired" else 3)))
    for ours, theirs, few in zip(read, whole, some, strict=True):
        assert (ours.query, ours.copies) == (theirs.query, theirs.copies) == (few.query, few.copies)
        for mine, other, kept in (
            (ours.unpaired, theirs.unpaired, few.unpaired),
            (ours.paired, theirs.paired, few.paired),
        ):
            assert mine.descriptions == other.descriptions
            np.testing.assert_array_equal(mine.residues, other.residues)
            np.testing.assert_array_equal(mine.deletions, other.deletions)
            assert kept.descriptions == other.descriptions[: len(kept.descriptions)]
            np.testing.assert_array_equal(kept.residues, other.residues[: len(kept.residues)])
    assert [len(part.unpaired.residues) for part in some] == [3, 3]
    assert [len(part.paired.residues) for part in some] == [5, 5]


def test_a_complex_with_more_rows_than_limits_admit(tmp_path, monkeypatch):
    monkeypatch.setattr("fastfold_jax.data.job_chains.Limits", lambda: Limits(reservoir=7))
    (tmp_path / "x.a3m").write_text(complex_text(30))
    first, copy, second = read_job(tmp_path / "x.a3m").chains
    assert [len(chain.paired.residues) for chain in (first, copy, second)] == [7, 7, 7]
    assert [len(chain.alignments[0].residues) for chain in (first, copy, second)] == [7, 7, 7]
    assert first.alignments[0].query == first.sequence == "ACDE" and second.paired.query == "KLM"


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "mgnify_hits.sto"
    with path.open("wb") as file:
        file.write(b"# STOCKHOLM 1.0\n")
        for part in range(3):
            for row in range(20_000):
                file.write(b"hit%06d/1-300 %s\n" % (row, b"ACDEFGHIKLMNPQRST-.." * 10))
            file.write(b"#=GC RF %d\n\n" % part)
        file.write(b"//\n")
    size = path.stat().st_size
    tracemalloc.start()
    read = read_stockholm(path, source="mgnify", choose=lambda count: Limits().rows("mgnify", count))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read.residues) == 501 and size > 12e6
    assert peak < 40e6  # some blocks' worth, and the names, whatever the rows hold


_READ = """
import re, sys, time
from pathlib import Path
from fastfold_jax.data.job import read_job

def peak():  # kB; unlike getrusage's, not the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
wall, own = time.perf_counter(), time.process_time()
job = read_job(sys.argv[1])
wall, own = time.perf_counter() - wall, time.process_time() - own
after = peak()
print(len(job.chains[0].alignments[0].residues), before, after, wall, own)
"""


@pytest.mark.slow
def test_half_a_gigabyte_of_stockholm(tmp_path):
    """jackhmmer's form: within 700 MB, and 30 MB a second of processor time."""
    path = tmp_path / "uniref90_hits.sto"
    draw = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY------..", np.uint8)
    with path.open("wb") as file:
        file.write(b"# STOCKHOLM 1.0\n\n")
        for part in range(10):
            rows = letters[draw.integers(0, len(letters), (1000, 200))]
            rows[0] = ord("A") if part % 2 else ord("-")
            for row in range(100_000):
                name = b"UniRef90_A0A%06d/1-350" % row
                file.write(b"%-40s %s\n#=GR %-30s PP %s\n" % (name, rows[row % 1000].tobytes(), name, b"9" * 200))
            file.write(b"#=GC RF\n\n")
        file.write(b"//\n")
    assert path.stat().st_size > 450e6
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True)
    rows, before, after, wall, own = map(float, done.stdout.split())
    print(f"{path.stat().st_size / 1e6:.0f} MB: {wall:.1f} s, {own:.1f} s of one core, {(after - before) / 1e3:.0f} MB")
    assert rows == Limits().uniref90
    assert after - before < 700e3
    assert path.stat().st_size / own > 30e6
