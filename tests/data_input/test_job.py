"""Jobs: which files of a directory are which chain's, in which order, and what contradictions are named."""

import gzip
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastfold_jax.data import layout
from fastfold_jax.data.job import Chain, Job, read_job
from fastfold_jax.data.textfile import InputError
from fastfold_jax.errors import UserError

A, B = "ACDEFG", "KLMNP"
FEATURES = pickle.dumps({"aatype": np.eye(21)[:2], "msa": np.zeros((1, 2), np.int32)})


def a3m(query: str, *rows: str, name: str = "query") -> str:
    return f">{name}\n{query}\n" + "".join(f">hit{i}\n{row}\n" for i, row in enumerate(rows))


def sto(query: str, *rows: str) -> str:
    lines = "".join(
        f"{name} {row}\n" for name, row in zip(["query", *map(str, range(9))], [query, *rows], strict=False)
    )
    return f"# STOCKHOLM 1.0\n{lines}//\n"


@pytest.fixture
def job(tmp_path):
    """Reads the job of a directory with these files."""

    def read(**files: str | bytes) -> Job:
        directory = tmp_path / "my job"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_job(directory)

    return read


def summary(chain: Chain) -> tuple[str, str, list[tuple[str, int]], tuple[str, int] | None]:
    """Name, sequence, and source and rows of each alignment."""
    paired = (chain.paired.source, len(chain.paired.residues)) if chain.paired else None
    return chain.id, chain.sequence, [(each.source, len(each.residues)) for each in chain.alignments], paired


def summaries(found: Job) -> list:
    return [summary(chain) for chain in found.chains]


# Single files


def test_a_fasta_file_is_a_complex_of_its_records(tmp_path):
    path = tmp_path / "in put.fasta"
    path.write_text(f">x/1 first\n{A}\n>x/1\n{B}\n>\n{A}\n")
    found = read_job(path)
    assert found.name == "in_put" and found.features is None
    assert summaries(found) == [("x_1", A, [], None), ("x_1_2", B, [], None), ("chain3", A, [], None)]
    assert found.chains[0].description == "x/1 first"


@pytest.mark.parametrize("name", ["uniref90.a3m", "uniref90.sto", "uniref90.a3m.gz"])
def test_an_alignment_file_is_its_own_query(tmp_path, name):
    path = tmp_path / name
    text = (sto if "sto" in name else a3m)("AUDX", "AC--").encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = read_job(str(path))
    assert found.name == "uniref90" and summaries(found) == [("query", "AUDX", [("uniref90", 2)], None)]


def test_stockholm_is_told_by_its_content(tmp_path):
    (tmp_path / "hits.a3m").write_text(sto(A, A))
    assert summaries(read_job(tmp_path / "hits.a3m")) == [("query", A, [("other", 2)], None)]


def test_a_complex_a3m_repeats_its_chains(tmp_path):
    path = tmp_path / "x.a3m"
    path.write_text(f"#6,5\t2,1\n>101\t102\n{A}{B}\n>a\tb\n{A}{B}\n>c\nAC---------\n")
    rows = [("101", A, [("other", 2)]), ("101_2", A, [("other", 2)]), ("102", B, [("other", 1)])]
    assert summaries(read_job(path)) == [(*row, ("paired", 2)) for row in rows]


@pytest.mark.parametrize("name", ["features.pkl", "some.npz"])
def test_a_feature_file_is_a_job_of_its_own(tmp_path, name):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, aatype=np.zeros(2), msa=np.zeros((1, 2)))
    else:
        path.write_bytes(FEATURES)
    found = read_job(path)
    assert found.chains == () and found.features.keys() == {"aatype", "msa"}
    (tmp_path / "features.txt").write_text("not looked at")
    assert read_job(tmp_path).features.keys() == {"aatype", "msa"}


def test_a_file_is_told_by_its_content_only_where_its_name_says_nothing(tmp_path):
    path = tmp_path / "sequence.txt"
    path.write_text(f">a\n{A}\n")
    assert summaries(read_job(path)) == [("a", A, [], None)]
    path.write_text("some text")
    with pytest.raises(InputError, match=r"sequence.txt: the name does not say what it is; accepted are FASTA"):
        read_job(path)


def test_missing_input_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_job(tmp_path / "nothing.fasta")


# Directories


def test_alignments_of_one_chain_come_in_alphafolds_order(job):
    found = job(
        **{
            "zz_env.a3m": a3m(A),
            "mgnify_hits.sto": sto(A),
            "bfd_uniref_hits.a3m": a3m(A),
            "uniref90_hits.sto": sto(A),
            "uniprot_hits.sto": sto(A),
            "small_bfd_hits.sto": sto(A),
            "pdb_hits.sto": sto("WWW"),
            "hmm_output.sto": sto("WWW"),
            "hits.hhr": "not looked at",
            "._hidden.a3m": b"\0\0",
        }
    )
    assert found.name == "my_job"
    order = ["uniref90", "bfd", "bfd", "mgnify", "other"]
    assert summaries(found) == [("query", A, [(source, 1) for source in order], ("uniprot", 1))]


def test_prefixes_tell_chains_apart_in_natural_order(job):
    found = job(**{f"chain{n}_unpaired.a3m": a3m("A" * n, "-" * n) for n in (10, 2, 1)})
    assert [chain.id for chain in found.chains] == ["chain1", "chain2", "chain10"]
    assert [len(chain.sequence) for chain in found.chains] == [1, 2, 10]


def test_chains_paired_row_by_row(job):
    files = {
        f"chain{n}_{kind}.a3m": a3m(query, query) for n, query in ((1, A), (2, B)) for kind in ("paired", "unpaired")
    }
    found = job(**files)
    assert [entry[2:] for entry in summaries(found)] == [([("other", 2)], ("paired", 2))] * 2
    files["chain2_paired.a3m"] = a3m(B)
    with pytest.raises(InputError, match="chain1: 2, chain2: 1"):
        job(**files)
    del files["chain2_paired.a3m"]
    with pytest.raises(InputError, match="chain1: 2, chain2: none"):
        job(**files)


def test_sub_directories_are_chains(job):
    found = job(
        **{
            "b/uniref90.sto": sto(B),
            "a/uniref90.sto": sto(A, A),
            "a/uniprot.sto": sto(A),
            "c/one.fasta": f">whatever\n{B}\n",
            "plots/x.png": b"",
        }
    )
    assert summaries(found) == [
        ("a", A, [("uniref90", 2)], ("uniprot", 1)),
        ("b", B, [("uniref90", 1)], None),
        ("c", B, [], None),
    ]


def test_a_fasta_gives_the_chains_and_equal_ones_share(job):
    fasta = f">x\n{B}\n>y\n{A}\n>z\n{A}\n"
    expected = [("x", B, [("other", 1)], None), ("y", A, [("other", 2)], None), ("z", A, [("other", 2)], None)]
    assert summaries(job(**{"in.fasta": fasta, "1.a3m": a3m(A, A), "2.a3m": a3m(B)})) == expected
    assert summaries(job(**{"in.fasta": fasta, "A/1.a3m": a3m(A, A), "B/2.a3m": a3m(B)})) == expected
    assert summaries(job(**{"in.fasta": fasta, "chain2_1.a3m": a3m(A, A), "chain1_2.a3m": a3m(B)})) == expected


def test_names_decide_before_sequences(job):
    fasta = f">x\n{A}\n>y\n{A}\n>w\n{B}\n"
    found = job(**{"in.fasta": fasta, "Y/1.a3m": a3m(A, A), "1/1.a3m": a3m(A, A, A)})
    assert [entry[2] for entry in summaries(found)] == [[("other", 3)], [("other", 2)], []]


def test_top_level_alignments_come_before_sub_directories_and_features_between(job):
    assert summaries(job(**{"x.a3m": a3m(A), "x_env/y.a3m": a3m(B)})) == [("query", A, [("other", 1)], None)]
    assert job(**{"features.pkl": FEATURES, "result.pkl": b"", "msas/y.a3m": a3m(B)}).features is not None
    assert job(**{"features.pkl": FEATURES, "y.a3m": a3m(B)}).features is None


def test_one_chain_has_nothing_to_pair_with(job):
    assert summaries(job(**{"uniprot.sto": sto(A)})) == [("query", A, [("other", 1)], None)]
    files = {"x.a3m": a3m(A), "x_paired.a3m": a3m(A, A)}
    assert summaries(job(**files)) == [("query", A, [("other", 1), ("other", 2)], None)]


def test_rare_letters_of_the_query_may_be_x_in_an_alignment(job):
    files = {"q.fasta": ">q\nAUDZ\n", "uniref90.sto": sto("AXDE"), "bfd.a3m": a3m("ACDX")}
    assert summaries(job(**files)) == [("q", "AUDZ", [("uniref90", 1), ("bfd", 1)], None)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "holds no input; accepted are FASTA"),
        ({"x.txt": "?"}, "holds no input"),
        ({"a.fasta": f">a\n{A}\n", "b.fasta": f">a\n{A}\n"}, "holds several FASTA files (a.fasta, b.fasta)"),
        ({"a.npz": b"PK", "b.npz": b"PK"}, "holds several feature files (a.npz, b.npz)"),
        ({"q.fasta": f">q\n{A}\n", "x.a3m": a3m("ACDEFC")}, "'query' (6 residues), is not the query 'q' (6 residues)"),
        ({"q.fasta": f">q\n{A}\n", "x.a3m": a3m("ACDEF")}, "they differ at residue 6"),
        ({"q.fasta": f">q\n{A}\n>r\n{B}\n", "x.a3m": a3m("AC")}, "is the sequence of no record of"),
        ({"q.fasta": f">q\n{A}\n", "chain2_x.a3m": a3m(A)}, "is for record 2 of"),
        ({"q.fasta": f">q\n{A}\n>r\n{B}\n", "chain1_x.a3m": a3m(B)}, "is not the query 'q'"),
        ({"q.fasta": f">q\n{A}\n", "a/x.a3m": a3m(A), "b/x.a3m": a3m(A)}, "a second set of alignments for the chain q"),
        (
            {"bfd.a3m": a3m(A), "mgnify.sto": sto(B)},
            "it has 'K' at residue 1, not 'A'; the first row of every alignment",
        ),
        ({"bfd.a3m": a3m(A), "mgnify.sto": sto(A + "C")}, "it has 7 residues, not 6"),
        ({"chain1_x.a3m": a3m(A), "x.a3m": a3m(A)}, "x.a3m: has no chainN_ in front of its name"),
        ({"a/chain1_x.a3m": a3m(A), "a/chain2_x.a3m": a3m(A)}, "holds files of several chains"),
        ({"a/x.fasta": f">q\n{A}\n>r\n{B}\n"}, "holds 2 records, but is the FASTA file of one chain"),
        ({"x.a3m": f"#6\t2\n>q\n{A}\n", "y.a3m": a3m(A)}, "it must be the only alignment of its directory"),
        ({"x.a3m": f"#6\t2\n>q\n{A}\n", "y.fasta": f">q\n{A}\n"}, "its chains (6, 6 residues) are not those of"),
        ({"uniprot.sto": sto(A), "uniprot.a3m": a3m(A)}, "a second alignment to pair (uniprot)"),
        ({"x.fasta": sto(A)}, "an alignment, not a FASTA file"),
        ({"x.a3m": ""}, "x.a3m: the file is empty"),
        ({"x.sto": b"\0\1\2"}, "x.sto: a binary file"),
    ],
)
def test_contradictions_are_named(job, files, expected):
    with pytest.raises(InputError) as error:
        job(**files)
    assert expected in str(error.value) and "\n" not in str(error.value)


# Real data


def test_real_directories(shared_data):
    msa = shared_data / "msa"
    assert summaries(read_job(msa / "6KWC_1"))[0][2:] == ([("bfd", 1428), ("mgnify", 501)], None)
    assert summaries(read_job(msa / "cobra73"))[0][2:] == ([("uniref90", 57), ("bfd", 1024), ("mgnify", 59)], None)
    first, second = summaries(read_job(msa / "3G5O"))
    assert (first[0], len(first[1])) == ("chain1", 93) and first[2:] == ([("other", 7527)], ("paired", 15))
    assert (second[0], len(second[1])) == ("chain2", 87) and second[2:] == ([("other", 8911)], ("paired", 15))


def test_real_sub_directories(shared_data, tmp_path):
    for name in ("2q2k_A", "2q2k_B"):
        shutil.copytree(shared_data / "msa" / name, tmp_path / name)
    found = summaries(read_job(tmp_path))
    assert [entry[0] for entry in found] == ["2q2k_A", "2q2k_B"]
    assert found[0][2:] == ([("uniref90", 16), ("bfd", 4), ("mgnify", 7)], ("uniprot", 21))


def test_the_bundled_example_is_a_job():
    examples = Path(__file__).resolve().parents[2] / "examples"
    directories = [path for path in examples.iterdir() if path.is_dir()]
    assert directories
    for directory in directories:
        (chain,) = read_job(directory / f"{directory.name}.fasta").chains
        assert 30 <= len(chain.sequence) <= 80


# File names


@pytest.mark.parametrize(
    ("name", "source", "prefix"),
    [
        ("uniref90_hits.sto", "uniref90", None),
        ("bfd_uniref_hits.a3m", "bfd", None),
        ("uniclust30.a3m", "bfd", None),
        ("chain12_UniRef90.a3m.gz", "uniref90", "chain12"),
        ("chain-B.mgnify.sto", "mgnify", "chain-B"),
        ("chain1_unpaired.a3m", "other", "chain1"),
        ("chain_of_custody.a3m", "other", None),
    ],
)
def test_names_say_source_and_chain(name, source, prefix):
    path = Path(name)
    assert layout.is_alignment(path)
    assert (layout.source_of(path), layout.chain_prefix(path)) == (source, prefix)


@pytest.mark.parametrize("name", ["pdb_hits.sto", "pdb70_hits.a3m", "chain1_pdb_hits.sto", "hmm_output.sto", "x.hhr"])
def test_template_hits_are_no_alignments(name):
    assert not layout.is_alignment(Path(name))


def hits(found: Job) -> list:
    return [[path.name for path in chain.hits] for chain in found.chains]


def test_template_hits_go_with_the_alignments_beside_them(job, caplog):
    files = {"a.a3m": a3m(A), "pdb_hits.hhr": "hits"}
    assert hits(job(**files)) == [["pdb_hits.hhr"]]
    assert hits(job(**{"x.fasta": f">x\n{A}\n", "pdb_hits.sto": "hits"})) == [["pdb_hits.sto"]]
    prefixed = {"chain1_a.a3m": a3m(A), "chain2_a.a3m": a3m(B), "chain2_pdb_hits.sto": "hits"}
    assert hits(job(**prefixed)) == [[], ["chain2_pdb_hits.sto"]]
    # Sub-directories are assigned to records by their alignments, whatever they are called, and hits go with them.
    below = {"B/u.a3m": a3m(A), "B/pdb_hits.sto": "hits", "A/u.a3m": a3m(B)}
    assert hits(job(**below)) == [[], ["pdb_hits.sto"]]
    found = job(**below, **{"x.fasta": f">one\n{A}\n>two\n{B}\n>three\n{A}\n"})
    assert hits(found) == [["pdb_hits.sto"], [], ["pdb_hits.sto"]]
    # By number or name where there are none; hits of no chain are left out, and that is said.
    names = {"x.fasta": f">one\n{A}\n>two\n{B}\n", "two/pdb_hits.sto": "hits", "chain1/pdb_hits.hhr": "hits"}
    assert hits(job(**names)) == [["pdb_hits.hhr"], ["pdb_hits.sto"]]
    assert not caplog.records
    assert hits(job(**{"x.fasta": f">one\n{A}\n>two\n{B}\n", "pdb_hits.sto": "hits"})) == [[], []]
    assert "pdb_hits.sto: template hits of which chain (one, two)?" in caplog.text
