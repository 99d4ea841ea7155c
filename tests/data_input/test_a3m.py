"""A3M: rows and deletions against a letter-by-letter reading and AlphaFold's, and exact places for errors."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfold_jax.constants.residues import MSA_LETTER_TO_INDEX
from fastfold_jax.data import a3m
from fastfold_jax.data.a3m import parse_a3m
from fastfold_jax.data.textfile import InputError

UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FILES = ["6KWC_1/bfd_uniref_hits", "cobra73/bfd_uniclust_hits", "2q2k_A/bfd_uniclust_hits"] + [
    f"3G5O/chain{chain}_{kind}" for chain in (1, 2) for kind in ("paired", "unpaired")
]


def plain_reading(row: str) -> tuple[list[int], list[int]]:
    """Residues and deletions of a row, one letter after another."""
    residues, deletions, waiting = [], [], 0
    for letter in row:
        if letter.islower():
            waiting += 1
        elif letter != ".":
            residues.append(MSA_LETTER_TO_INDEX[letter])
            deletions.append(waiting)
            waiting = 0
    return residues, deletions


@st.composite
def alignments(draw) -> tuple[list[str], list[str]]:
    """Names and rows of an A3M."""
    width = draw(st.integers(1, 12))
    insertion = st.text("abxz.", max_size=3)
    rows = [draw(st.text(UPPER, min_size=width, max_size=width))]
    for _ in range(draw(st.integers(0, 5))):
        letters = draw(st.text(UPPER + "---", min_size=width, max_size=width))
        rows.append("".join(draw(insertion) + letter for letter in letters) + draw(insertion))
    names = [draw(st.text("ab |/\t>é", max_size=6)).strip() for _ in rows]
    return names, rows


@given(
    alignment=alignments(),
    wrap=st.sampled_from([1, 3, 1000]),
    end=st.sampled_from(["\n", "\r\n"]),
    extra=st.sampled_from(["", "\n", "# comment\n"]),
    block=st.sampled_from([1, 20, 1 << 22]),
)
def test_rows_are_those_of_a_plain_reading(alignment, wrap, end, extra, block):
    names, rows = alignment
    text = extra
    for name, row in zip(names, rows, strict=True):
        text += f">{name}\n" + "".join(row[i : i + wrap] + "\n" for i in range(0, len(row), wrap)) + extra
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a3m, "_BLOCK", block)
        parsed = parse_a3m(text.replace("\n", end).encode(), file="in.a3m", source="bfd")
    expected = [plain_reading(row) for row in rows]
    np.testing.assert_array_equal(parsed.residues, [residues for residues, _ in expected])
    np.testing.assert_array_equal(parsed.deletions, [deletions for _, deletions in expected])
    assert parsed.descriptions == tuple(names)
    assert (parsed.query, parsed.source) == (rows[0], "bfd")
    assert parsed.residues.dtype == np.int8 and parsed.deletions.dtype == np.uint8


@settings(max_examples=300)
@given(
    st.binary(max_size=200) | st.text(">#\nACDacd-.1é \r", max_size=80).map(lambda tail: f">a\nACD\n{tail}".encode())
)
def test_any_bytes_give_an_alignment_or_an_input_error(data):
    try:
        parsed = parse_a3m(data, file="in.a3m")
    except InputError as error:
        assert str(error).startswith("in.a3m") and "\n" not in str(error)
    else:
        assert parsed.residues.min() >= 0 and parsed.residues.max() <= 21
        assert len(parsed.query) == parsed.residues.shape[1]


@pytest.mark.parametrize("name", FILES)
def test_equal_to_alphafold(name, shared_data):
    parsers = pytest.importorskip("alphafold.data.parsers")
    data = (shared_data / "msa" / f"{name}.a3m").read_bytes()
    ours = parse_a3m(data, file=name)
    theirs = parsers.parse_a3m(data.decode())
    np.testing.assert_array_equal(ours.residues, [[MSA_LETTER_TO_INDEX[c] for c in s] for s in theirs.sequences])
    np.testing.assert_array_equal(ours.deletions, theirs.deletion_matrix)
    assert list(ours.descriptions) == list(theirs.descriptions)


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32)])
def test_deletions_have_the_smallest_type_that_holds_them(count, dtype):
    parsed = parse_a3m(b">q\nAC\n>h\nA" + b"g" * count + b"C\n", file="in.a3m")
    assert parsed.deletions.dtype == dtype and parsed.deletions.tolist() == [[0, 0], [0, count]]


def test_what_follows_the_last_column_is_dropped():
    assert parse_a3m(b">q\nAC\n>h\nACgg\n>i\nACg\n", file="in.a3m").deletions.sum() == 0


def test_a_servers_trailing_zero_byte_is_no_binary_file():
    assert parse_a3m(b">q\nAC\n>h\nA-\n\0", file="in.a3m").residues.tolist() == [[0, 4], [0, 21]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"AC\n", "line 1: not an A3M file"),
        (b"#A3M#\n\n", "no line begins with '>'"),
        (b">q\n", "line 1: the first record, 'q', has no sequence"),
        (b">q\nacd\n>h\nacd\n", "line 1: the first record, 'q', is all in lower case, which is for insertions"),
        (b">q\nACD\n>h\n>i\nACD\n", "line 3: the row 'h' has 0 aligned columns, but the first row (line 2) has 3"),
        (b"# x\n>q\nACD\n>h\nAC\nDE\n", "line 4: the row 'h' has 4 aligned columns, but the first row (line 3) has 3"),
        (b">q\nACD\n>h\nACDaaC\n>i\nACD\n", "line 3: the row 'h' has 4"),
        (b">q\nACD\n>h\nA1D\n", "line 4, column 2: '1' in the row 'h'"),
        (b">q\nACD\n>h\n A D\n", "line 4, column 3: ' ' in the row 'h'"),
        (">q\nACD\n>h\naÅD\n".encode(), "line 4, column 2: 'Å'"),
        (b">q\nA-D\n>h\nACD\n", "line 2: the first row, 'q', has a gap at letter 2"),
        (b">q\nAcCD\n>h\nACD\n", "line 2: the first row, 'q', has an insertion ('c') at letter 2"),
        (b">q\nAC\0D\n", "binary file"),
        (b">q\nACD\n>\xe9\nACD\n", "line 3: neither ASCII nor UTF-8"),
    ],
)
def test_what_is_wrong_is_named(data, expected):
    with pytest.raises(InputError) as error:
        parse_a3m(data, file="in.a3m")
    assert expected in str(error.value)


def test_errors_in_later_blocks_have_the_right_line(monkeypatch):
    monkeypatch.setattr(a3m, "_BLOCK", 10)
    rows = [f">h{i}\nACD" for i in range(50)]
    rows[37] = ">h37\nACDE"
    with pytest.raises(InputError, match=r"line 75: the row 'h37' has 4 aligned columns, but the first row \(line 2\)"):
        parse_a3m("\n".join(rows).encode(), file="in.a3m")


def test_fast_enough():
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY----", np.uint8)
    rows = [
        np.insert(letters[rng.integers(0, len(letters), 300)], rng.integers(0, 300, 30), ord("g")).tobytes()
        for _ in range(100)
    ]
    data = b">q\n" + b"A" * 300 + b"".join(b"\n>UniRef100_%d n=1\n%b" % (i, rows[i % 100]) for i in range(25_000))
    start = time.process_time()
    parsed = parse_a3m(data, file="in.a3m")
    rate = len(data) / (time.process_time() - start) / 1e6
    assert parsed.residues.shape == (25_001, 300)
    assert rate > 40, f"{rate:.0f} MB/s"  # 200 to 350 on a quiet machine
