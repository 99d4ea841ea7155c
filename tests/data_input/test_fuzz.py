"""Whatever bytes an input holds: jobs that can be predicted, or an error that says what is wrong; nothing else."""

import json
import random

import packers
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.errors import UserError

A3M = ">query x\nACDEFGHIKL\n>UniRef100_A/1-9\nAC-EFgghGHIKL\n>b\nACD\nEFGH---\n"
VALID = {
    "x.fasta": ">one first\nACDEFGHIKL\nMNPQRS*\n>two\nACD:EFG\n;comment\n",
    "x.csv": 'id,sequence,stoichiometry\none,ACDEF,\n"two, b",ACD:EFG,2:1\n',
    "x.tsv": "id\tsequence\none\tACDEF\ntwo\tACD:EFG\n",
    "x.a3m": A3M,
    "y.a3m": "#4,6\t1,2\n" + A3M,
    "x.sto": "# STOCKHOLM 1.0\n#=GF ID x\nquery  ACDEF\nhit/1  A-.eF\n\nquery  GHI\nhit/1  GHI\n//\n",
    "x.json": json.dumps(
        {
            "name": "x",
            "modelSeeds": [1],
            "sequences": [{"protein": {"id": ["A", "B"], "sequence": "ACDEFGHIKL", "unpairedMsa": A3M}}],
            "version": 1,
        }
    ),
}
PACKERS = [("", bytes), *packers.COMPRESS.items()]
PIECES = [
    b">",
    b":",
    b"\n",
    b"\r",
    b"\0",
    b"\xff\xfe",
    b"-",
    b",",
    b'"',
    b"{",
    b"[" * 50,
    b"\t",
    b"//\n",
    b"#9\t9\n",
    b"*",
]
PIECES += ["Ä\u202e".encode(), b"1e999", b"null", b"../", b"\x1f\x8b\x08", b" " * 30, b"A" * 500, b"\xef\xbb\xbf"]


def mutated(data: bytes, seed: int) -> bytes:
    """The same bytes with a few cut, doubled, moved, or replaced by trouble."""
    draw = random.Random(seed)
    for _ in range(draw.randint(1, 5)):
        start = draw.randrange(len(data) + 1)
        stop = min(start + draw.choice([0, 1, 5, 40]), len(data))
        kind = draw.randrange(4)
        middle = [b"", data[start:stop] * 2, draw.choice(PIECES), bytes([draw.randrange(256)])][kind]
        data = data[:start] + middle + data[stop:]
    return data[: draw.choice([len(data), draw.randrange(len(data) + 1)])]


def read_all(path) -> list:
    """The jobs, or nothing where a `UserError` says why there are none; any other exception fails the test."""
    try:
        jobs = [source.read() for source in find_jobs([path])]
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return []
    for job in jobs:
        assert job.name == job.name.replace("/", "") and job.name not in ("", ".", "..") and len(job.name) <= 64
        for chain in job.chains:
            assert chain.sequence.isalpha() and chain.sequence.isupper() and chain.sequence.isascii()
            for alignment in chain.alignments:
                assert alignment.residues.shape[1] == len(chain.sequence)
    return jobs


@pytest.mark.parametrize("name", VALID)
def test_the_seeds_are_valid(tmp_path, name):
    (tmp_path / name).write_text(VALID[name])
    assert read_all(tmp_path / name)


@settings(max_examples=250, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(VALID)), seed=st.integers(0, 2**32), packer=st.sampled_from(PACKERS))
def test_damaged_files(tmp_path, name, seed, packer):
    suffix, pack = packer
    data = pack(mutated(VALID[name].encode(), seed))
    path = tmp_path / (name + suffix)
    path.write_bytes(mutated(data, seed) if seed % 2 else data)
    read_all(path)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*sorted(VALID), "x", "x.npz", "x.pkl"]), data=st.binary(max_size=300))
@example(name="x.fasta", data=b">\n*")
@example(name="x.json", data=b"[" * 100_000)
@example(name="x.json", data=b"1" * 10_000)
@example(name="x.csv", data=b'id,sequence\n"')
def test_any_bytes(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    read_all(tmp_path / name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "sequences", "protein", "proteinChain", "id", "count", "sequence", "unpairedMsa", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, protein=VALUES)
def test_any_json(tmp_path, value, protein):
    for document in (
        value,
        {"sequences": [{"protein": protein}]},
        {"sequences": [{"protein": {"sequence": "AC", "id": protein}}]},
    ):
        (tmp_path / "x.json").write_text(json.dumps(document))
        read_all(tmp_path / "x.json")


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=st.lists(
        st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=80),
        min_size=1,
        max_size=5,
    )
)
def test_any_header_gives_a_name_in_the_directory(tmp_path, headers):
    (tmp_path / "x.fasta").write_text("".join(f">{header}\nACD\n" for header in headers), encoding="utf-8")
    sources = find_jobs([tmp_path / "x.fasta"])
    names = [source.name for source in sources]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert (tmp_path / name).resolve().parent == tmp_path.resolve() and not name.startswith((".", "-"))
