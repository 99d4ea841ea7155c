"""A3M files read in blocks: the same rows as from memory, some of them kept, and bounded memory."""

import gzip
import tracemalloc

import numpy as np
import packers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastfold_jax.data import a3m
from fastfold_jax.data.a3m import parse_a3m, read_a3m
from fastfold_jax.data.msa import Limits, cap
from fastfold_jax.data.textfile import InputError

ROW = st.text("ACDEF-acd", min_size=1, max_size=12)


def rows_of(width: int, drawn: list[str]) -> str:
    """An alignment of so many columns, each row wrapped or not, with insertions where the draw has lower case."""
    rows = [">q\n" + "A" * width]
    for number, text in enumerate(drawn):
        columns = [letter for letter in text if not letter.islower()]
        filled = text + "".join("G" for _ in range(width - len(columns)))
        while sum(not letter.islower() for letter in filled) > width:
            filled = filled[1:]
        rows.append(f">h{number}\n" + ("\n".join([filled[:2], filled[2:]]) if number % 3 == 0 else filled))
    return "\n".join(rows) + "\n"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(ROW, max_size=12),
    block=st.sampled_from([1, 7, 30, 10_000]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    packed=st.booleans(),
    frame=st.sampled_from([("", ""), ("\ufeff", "\0"), ("#comment\n\n", "\n\n"), ("  ", "")]),
)
def test_a_file_is_read_as_its_text_is(tmp_path, drawn, block, end, packed, frame):
    data = (frame[0] + rows_of(6, drawn).replace("\n", end) + frame[1]).encode()
    path = tmp_path / "x.a3m"
    path.write_bytes(gzip.compress(data) if packed else data)
    whole = parse_a3m(data, file="x.a3m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a3m, "_BLOCK", block)
        read = read_a3m(path, source="other", choose=np.arange)
        kept = np.arange(len(whole.residues))[::2]
        some = read_a3m(path, source="other", choose=lambda count: np.arange(count)[::2])
    assert read.descriptions == whole.descriptions and read.query == whole.query
    np.testing.assert_array_equal(read.residues, whole.residues)
    np.testing.assert_array_equal(read.deletions, whole.deletions)
    np.testing.assert_array_equal(some.residues, whole.residues[kept])
    np.testing.assert_array_equal(some.deletions, whole.deletions[kept])
    assert some.descriptions == tuple(whole.descriptions[i] for i in kept)


@pytest.mark.parametrize("source", ["uniref90", "mgnify", "bfd", "paired", "other"])
def test_the_rows_that_limits_admit(tmp_path, source):
    limits = Limits(uniref90=5, mgnify=3, reservoir=7)
    text = rows_of(6, ["CDEF"[: 1 + i % 4] for i in range(40)])
    (tmp_path / "x.a3m").write_text(text)
    whole = cap(parse_a3m(text.encode(), file="x", source=source), limits)
    read = read_a3m(tmp_path / "x.a3m", source=source, choose=lambda count: limits.rows(source, count))
    np.testing.assert_array_equal(read.residues, whole.residues)
    np.testing.assert_array_equal(cap(read, limits).residues, whole.residues)  # nothing is drawn twice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">q\nAC\n" + ">h\nAC\n" * 50 + ">bad\nA1\n", "line 104, column 2: '1' in the row"),
        (">q\nAC\n" + ">h\nAC\n" * 50 + ">bad\nACC\n", "line 103: the row '>bad'|line 103: the row 'bad' has 3"),
        (">q\nAC\n" + ">h\nAC\n" * 50 + ">b\0d\nAC\n", r"zero byte in line 103"),
        (">q\nA-\n" + ">h\nAC\n" * 50, "line 2: the first row, 'q', has a gap"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("AC\n", "line 1: not an A3M file"),
        ("#only\n", "no line begins with '>'"),
    ],
)
def test_faults_have_their_line_though_rows_are_not_kept(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(a3m, "_BLOCK", 40)
    (tmp_path / "x.a3m").write_bytes(text.encode())
    with pytest.raises(InputError, match=message):
        read_a3m(tmp_path / "x.a3m", source="other", choose=lambda count: np.arange(min(count, 1)))


def test_a_damaged_gzip_file(tmp_path):
    (tmp_path / "x.a3m.gz").write_bytes(gzip.compress(rows_of(6, ["AC"] * 999).encode())[:-9])
    with pytest.raises(InputError, match="damaged or truncated gzip"):
        read_a3m(tmp_path / "x.a3m.gz", source="other", choose=np.arange)


@pytest.mark.parametrize("opened", [open, *packers.OPEN.values()])
def test_memory_does_not_grow_with_the_file(tmp_path, opened):
    row = "ACDEFGHIKLMNPQRSTVWY" * 15
    with opened(tmp_path / "x.a3m", "wt") as file:
        file.write(f">q\n{row}\n")
        for _ in range(250):  # 80 MB
            file.write(f">hit of some database\n{row}\n" * 1000)
    tracemalloc.start()
    read = read_a3m(tmp_path / "x.a3m", source="mgnify", choose=lambda count: Limits().rows("mgnify", count))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read.residues) == 501
    assert peak < 60e6  # a dozen blocks' worth, whatever the file's size


@pytest.mark.slow
def test_half_a_gigabyte(tmp_path):
    """At least 100 MB a second of processor time, within 150 MiB."""
    import time

    draw = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY-", np.uint8)
    rows = letters[draw.integers(0, 21, (2000, 350))]
    rows[:, 0] = ord("A")
    block = b"".join(b">UniRef100_A0A%07d\t120\t0.43\n%s\n" % (i, row.tobytes()) for i, row in enumerate(rows))
    path = tmp_path / "x.a3m"
    with path.open("wb") as file:
        file.write(b">q\n" + b"A" * 350 + b"\n")
        for _ in range(500_000_000 // len(block) + 1):
            file.write(block)
    begun = time.process_time()
    read = read_a3m(path, source="other", choose=lambda count: Limits().rows("other", count))
    seconds = time.process_time() - begun
    assert len(read.residues) == Limits().reservoir
    assert path.stat().st_size / seconds > 100e6, f"{path.stat().st_size / seconds / 1e6:.0f} MB/s"
