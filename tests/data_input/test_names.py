"""Names that become file names."""

import re

from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.data.names import safe_name, unique_names


@given(st.text())
def test_any_text_becomes_a_safe_file_name(text):
    name = safe_name(text, otherwise="job")
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name) and not name.endswith(".")
    assert safe_name(name, otherwise="job") == name or name.startswith("_")


def test_what_is_safe_stays_and_what_is_not_goes():
    assert safe_name("sp|P01308|INS_HUMAN", otherwise="job") == "sp_P01308_INS_HUMAN"
    assert safe_name("../../etc/passwd", otherwise="job") == "etc_passwd"
    assert safe_name("--out", otherwise="job") == "out"
    assert safe_name("1ABC_A.v2", otherwise="job") == "1ABC_A.v2"
    assert (
        safe_name("..", otherwise="job")
        == safe_name("", otherwise="job")
        == safe_name("蛋白", otherwise="job")
        == "job"
    )
    assert safe_name("nul.txt", otherwise="job") == "_nul.txt"


@given(st.lists(st.sampled_from(["a", "A", "a_2", "b", "x" * 64, "x" * 62 + "_2"]), max_size=12))
def test_names_are_unique_whatever_the_case(names):
    unique = unique_names(names)
    assert len({name.casefold() for name in unique}) == len(names) and all(0 < len(name) <= 64 for name in unique)
    assert all(new.startswith(old[:60]) for old, new in zip(names, unique, strict=True))
