"""FASTA: records as written, and an exact place for whatever is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.data.fasta import parse_fasta
from fastfold_jax.data.textfile import InputError, read_bytes

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def sequences(data: bytes) -> list[str]:
    return [record.sequence for record in parse_fasta(data, file="in.fasta")]


@given(
    records=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), max_size=20),
            st.text(LETTERS, min_size=1, max_size=70),
        ),
        min_size=1,
        max_size=4,
    ),
    width=st.integers(1, 80),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    lower=st.booleans(),
    filler=st.sampled_from(["", "\n", "; a comment\n", "# a comment\n", "  \n"]),
)
def test_round_trip(records, width, end, lower, filler):
    text = ""
    for name, sequence in records:
        shown = sequence.lower() if lower else sequence
        lines = [shown[i : i + width] for i in range(0, len(shown), width)]
        text += f">{name}\n{filler}" + "\n".join(lines) + "\n"
    parsed = parse_fasta(text.replace("\n", end).encode(), file="in.fasta")
    assert [(record.description, record.sequence) for record in parsed] == records


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b">a\n" + tail))
def test_any_bytes_give_records_or_an_input_error(data):
    try:
        records = parse_fasta(data, file="in.fasta")
    except InputError as error:
        assert str(error).startswith("in.fasta") and "\n" not in str(error)
    else:
        assert records and all(set(record.sequence) <= set(LETTERS) and record.sequence for record in records)


def test_a_stop_at_the_end_is_dropped():
    assert sequences(b">a\nMKV\nLS*\n>b\nGG*") == ["MKVLS", "GG"]


def test_byte_order_mark_blanks_and_missing_newline():
    assert sequences(b"\xef\xbb\xbf>a\n  mkv LSP \n\n AG\t") == ["MKVLSPAG"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"MKV\n", "line 1: not a FASTA file"),
        (b"; only\n# comments\n", "nothing but comments"),
        (b">a\n>b\nMK\n", "line 1: the record 'a' has no sequence"),
        (b">a\nMK\n>b\n\n", "line 3: the record 'b' has no sequence"),
        (b">a\n*\n", "no sequence"),
        (b">a\nMKV\n\nMK1V\n", "line 4, column 3: '1' in 'a' is no amino acid; accepted are the letters A to Z"),
        (b">a\n  MK?\n", "line 2, column 5: '?'"),
        (">a\nMKÄV\n".encode(), "line 2, column 3: 'Ä'"),
        (b">a\nMK*V\n", "line 2, column 3: '*'"),
        (b">a\nMK*\nVL\n", "line 3, column 1: 'a' goes on after a '*'"),
        (b">a\nMK:VL\n", "give each chain its own '>' header"),
        (b">a\nMK-VL\n", ".a3m or .sto"),
        (b">a\nM\0K\n", "binary file"),
        (b">a\n\xff\xfeMK\n", "line 2: neither ASCII nor UTF-8"),
    ],
)
def test_what_is_wrong_is_named(data, expected):
    with pytest.raises(InputError) as error:
        parse_fasta(data, file="in.fasta")
    assert expected in str(error.value)
    assert str(error.value).startswith("in.fasta")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.fasta: no such file"):
        read_bytes(tmp_path / "nowhere.fasta")
    with pytest.raises(InputError, match="cannot be read"):
        read_bytes(tmp_path)
