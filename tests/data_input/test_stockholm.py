"""Stockholm: rows and deletions against a column-by-column reading and AlphaFold's, and exact places for errors."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfold_jax.constants.residues import MSA_LETTER_TO_INDEX
from fastfold_jax.data import stockholm
from fastfold_jax.data.stockholm import read_stockholm
from fastfold_jax.data.textfile import InputError


def parse(data: bytes, source: str = "other"):
    """The whole alignment of a text, through a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "in.sto"
        path.write_bytes(data)
        return read_stockholm(path, source=source, choose=np.arange)


UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FILES = ["6KWC_1/mgnify", "cobra73/uniref90", "cobra73/mgnify"] + [
    f"2q2k_{chain}/{source}" for chain in "AB" for source in ("uniref90", "mgnify", "uniprot")
]


def plain_reading(query: str, row: str) -> tuple[list[int], list[int]]:
    """Residues and deletions of a row, one column after another."""
    residues, deletions, waiting = [], [], 0
    for kept, letter in zip(query, row, strict=True):
        letter = letter.upper().replace(".", "-")
        if kept not in "-.":
            residues.append(MSA_LETTER_TO_INDEX[letter])
            deletions.append(waiting)
            waiting = 0
        else:
            waiting += letter != "-"
    return residues, deletions


@st.composite
def alignments(draw) -> list[str]:
    width = draw(st.integers(1, 12))
    rows = draw(st.lists(st.text(UPPER + "ac--.", min_size=width, max_size=width), min_size=1, max_size=6))
    return rows if set(rows[0]) - {"-", "."} else ["A" + row[1:] for row in rows[:1]] + rows[1:]


@given(
    rows=alignments(),
    split=st.integers(1, 12),
    end=st.sampled_from(["\n", "\r\n"]),
    at_once=st.sampled_from([1, 2, 1024]),
)
def test_rows_are_those_of_a_plain_reading(rows, split, end, at_once):
    text = "# STOCKHOLM 1.0\n#=GF ID x\n\n#=GS name/0 DE something\n"
    for start in range(0, len(rows[0]), split):
        text += "".join(f"name/{i}  {row[start : start + split]}\n#=GR name/{i} PP 9\n" for i, row in enumerate(rows))
        text += "#=GC RF xx\n\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stockholm, "_ROWS_AT_ONCE", at_once)
        parsed = parse((text + "//\n").replace("\n", end).encode(), source="mgnify")
    expected = [plain_reading(rows[0], row) for row in rows]
    np.testing.assert_array_equal(parsed.residues, [residues for residues, _ in expected])
    np.testing.assert_array_equal(parsed.deletions, [deletions for _, deletions in expected])
    assert parsed.descriptions == tuple(f"name/{i}" for i in range(len(rows)))
    assert parsed.query == rows[0].upper().replace("-", "").replace(".", "")
    assert parsed.source == "mgnify" and parsed.residues.dtype == np.int8


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text("ab AC-./#=1é\n\t", max_size=80))
def test_any_bytes_give_an_alignment_or_an_input_error(tail):
    tail = tail.encode() if isinstance(tail, str) else tail
    for data in (tail, b"# STOCKHOLM 1.0\nq AC\n" + tail, b"# STOCKHOLM 1.0\nq AC\n" + tail + b"\n//\n"):
        try:
            parsed = parse(data)
        except InputError as error:
            assert "in.sto" in str(error) and "\n" not in str(error)
        else:
            assert parsed.residues.min() >= 0 and parsed.residues.max() <= 21


@pytest.mark.parametrize("name", FILES)
def test_equal_to_alphafold(name, shared_data):
    parsers = pytest.importorskip("alphafold.data.parsers")
    data = (shared_data / "msa" / f"{name}_hits.sto").read_bytes()
    ours = parse(data)
    theirs = parsers.parse_stockholm(data.decode())
    np.testing.assert_array_equal(ours.residues, [[MSA_LETTER_TO_INDEX[c] for c in s] for s in theirs.sequences])
    np.testing.assert_array_equal(ours.deletions, theirs.deletion_matrix)
    assert list(ours.descriptions) == list(theirs.descriptions)


HEAD = b"# STOCKHOLM 1.0\n\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"q AC\n//\n", "line 1: not a Stockholm file"),
        (HEAD + b"q AC\nh AG\n", "truncated"),
        (HEAD + b"q AC\nh AG\n/", "line 5: '/' is no row"),
        (HEAD + b"//\n", "empty alignment"),
        (HEAD + b"q AC\n//\n# STOCKHOLM 1.0\nq AC\n//\n", "line 6: more follows after the '//'"),
        (HEAD + b"q AC\nh AGG\n//\n", "line 4: the row 'h' has 3 columns in all, but the first row has 2"),
        (HEAD + b"q AC\nh AG\n\nq AC\n//\n", "line 4: the row 'h' has 2 columns in all, but the first row has 4"),
        (HEAD + b"q AC\nh A G\n//\n", "line 4: 'h A G' is no row"),
        (HEAD + b"q A1\nh AG\n//\n", "line 3, column 4: '1' in the row 'q'"),
        (HEAD + "é AC\nh  AÅ\n//\n".encode(), "line 4, column 5: 'Å' in the row 'h'"),
        (HEAD + b"q --\nh AG\n//\n", "the first row, 'q', has no letters"),
        (HEAD + b"q A\0\n//\n", "binary file"),
    ],
)
def test_what_is_wrong_is_named(data, expected):
    with pytest.raises(InputError) as error:
        parse(data)
    assert expected in str(error.value)
