"""Complex A3M: rows go to the chains that they cover."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.constants.residues import MSA_LETTERS
from fastfold_jax.data.a3m_complex import is_complex, read_complex_a3m
from fastfold_jax.data.textfile import InputError

COMPLEX = b"""#3,2\t2,1
>101\t102
ACDEF
>p1\tp2
ACDaEY
>both\tbut\tnot\tfor\tus
--DE-
>101
ACD--
>u1
A-Dgg--
>102
---EF
>u2\t9\t0.5
---dWF
"""


def parse(data: bytes):
    """The chains of a text with all their rows, through a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.a3m"
        path.write_bytes(data)
        return read_complex_a3m(path, choose=lambda source, count: np.arange(count))


def letters(alignment) -> list[str]:
    return ["".join(MSA_LETTERS[index] for index in row) for row in alignment.residues]


def test_rows_go_to_the_chains_that_they_cover():
    first, second = parse(COMPLEX)
    assert (first.query, first.copies, first.description) == ("ACD", 2, "101")
    assert (second.query, second.copies, second.description) == ("EF", 1, "102")
    assert letters(first.paired) == ["ACD", "ACD", "--D"] and letters(second.paired) == ["EF", "EY", "E-"]
    assert first.paired.descriptions == ("101", "p1", "both\tbut\tnot\tfor\tus")
    assert second.paired.descriptions == ("102", "p2", "both\tbut\tnot\tfor\tus")
    assert letters(first.unpaired) == ["ACD", "A-D"] and letters(second.unpaired) == ["EF", "WF"]
    assert second.unpaired.descriptions == ("102", "u2\t9\t0.5")
    # What is inserted between two chains is the later one's.
    assert second.paired.deletions.tolist() == [[0, 0], [1, 0], [0, 0]]
    assert second.unpaired.deletions.tolist() == [[0, 0], [1, 0]] and first.unpaired.deletions.sum() == 0
    assert (first.paired.source, first.unpaired.source) == ("paired", "other")


def test_headers_of_several_fields_are_shared_out_evenly():
    data = b"#1,1\t1,1\n>101\t102\nAC\n>a\t9\t0.5\tb\t8\t0.4\nAC\n"
    first, second = parse(data)
    assert (first.paired.descriptions[1], second.paired.descriptions[1]) == ("a\t9\t0.5", "b\t8\t0.4")


def test_copies_of_one_chain_have_no_pairs():
    (part,) = parse(b"#3\t4\n>101\nACU\n>a\nA-D\n")
    assert (part.copies, part.query, part.paired, letters(part.unpaired)) == (4, "ACU", None, ["ACC", "A-D"])


def test_without_a_row_of_both_queries_each_chain_has_its_own():
    data = b"#2,2\t1,1\n>101\nAC--\n>x\nGC--\n>102\n--DE\n>y\t z\nACDF\n"
    first, second = parse(data)
    assert letters(first.unpaired) == ["AC", "GC"] and letters(second.unpaired) == ["DE"]
    # The pair agrees with the query of the first chain only: both get their query above it.
    assert letters(first.paired) == ["AC", "AC"] and letters(second.paired) == ["DE", "DF"]


@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=6),
)
def test_every_row_that_covers_anything_is_kept_once(lengths, rows):
    query = "".join(chr(ord("A") + 2 * chain) * length for chain, length in enumerate(lengths))
    text = f"#{','.join(map(str, lengths))}\t{','.join('1' * len(lengths))}\n>q\n{query}\n"
    for i, covers in enumerate(rows):
        text += (
            f">r{i}\n" + "".join(("M" if cover else "-") * n for cover, n in zip(covers, lengths, strict=False)) + "\n"
        )
    parts = parse(text.encode())
    counts = [sum(covers[: len(lengths)]) for covers in rows]
    if len(lengths) > 1:
        assert {len(part.paired.residues) for part in parts} == {1 + sum(count > 1 for count in counts)}
        assert sum(len(part.unpaired.residues) - 1 for part in parts) == counts.count(1)
    else:
        assert len(parts[0].unpaired.residues) == 1 + counts.count(1) and parts[0].paired is None
    assert "".join(part.query for part in parts) == query


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"#3,2\t1\n>q\nACDEF\n", "line 1: the header '#3,2\\t1' needs a length and a number of copies"),
        (b"#3,0\t1,1\n>q\nACD\n", "none of them 0"),
        (b"#3\t999999999\n>q\nACD\n", "at most 1000 copies"),
        (b"#3,3\t1,1\n>q\nACDEF\n", "3 + 3 = 6 columns, but the rows have 5"),
        (b"#3,2\t1,1\n>q\nACD--\n", "no row holds the query of chain 2 (columns 4 to 5)"),
        (b"#3,2\t1,1\n>q\nACDE-\n", "first row that reaches the chain, 'q', must be its query, without gaps"),
        (b"#3,2\t1,1\n", "no line begins with '>'"),
        (
            b"#3,2\t1,1\n>q\nACDEF\n>h\nAC\n",
            "line 4: the row 'h' has 2 aligned columns, but the first row (line 3) has 5",
        ),
    ],
)
def test_what_is_wrong_is_named(data, expected):
    with pytest.raises(InputError) as error:
        parse(data)
    assert expected in str(error.value)


@given(st.text("#0123,\t >\nACa-", max_size=60))
def test_any_text_gives_parts_or_an_input_error(tail):
    data = f"#2,1\t1,1\n>q\nACD\n{tail}".encode()
    assert is_complex(data)
    for text in (data, tail.encode()):
        try:
            parts = parse(text)
        except InputError:
            continue
        assert len({part.paired is None or len(part.paired.residues) for part in parts}) == 1
        assert all(np.shape(part.unpaired.residues)[1] == len(part.query) for part in parts)


@pytest.mark.parametrize("data", [b"#A3M#\n>q\nAC\n", b">q\nAC\n", b"# 3 rows\n>q\nAC\n", b"#3\n>q\nACD\n", b""])
def test_other_first_lines_are_no_header(data):
    assert not is_complex(data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_byte_order_mark_do_not_hide_the_header(end):
    assert is_complex(b"\xef\xbb\xbf" + COMPLEX.replace(b"\n", end))
    assert len(parse(b"\xef\xbb\xbf" + COMPLEX.replace(b"\n", end))) == 2
