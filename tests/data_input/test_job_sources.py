"""Many jobs in files and directories: which there are, what they are called, and that only what is needed is read."""

import gzip
import json
import lzma
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastfold_jax.data import job_sources
from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.data.structure import read_structure
from fastfold_jax.data.template_features import template_of_chain
from fastfold_jax.data.textfile import InputError

A, B = "ACDEFG", "KLMNP"


def a3m(query: str, *rows: str) -> str:
    return f">query\n{query}\n" + "".join(f">hit{i}\n{row}\n" for i, row in enumerate(rows))


def sto(query: str) -> str:
    return f"# STOCKHOLM 1.0\nquery {query[:3]}\n\nquery {query[3:]}\n//\n"


def faults(paths) -> list[str]:
    """Why those jobs cannot be read that cannot."""
    messages = []
    for source in find_jobs(paths):
        try:
            source.read()
        except InputError as error:
            messages.append(str(error))
    return messages


@pytest.fixture
def found(tmp_path):
    """Name and sequences of each job of a directory with these files, and sees that the foretold length is right."""

    def find(files: dict[str, str], **options) -> list[tuple[str, list[str]]]:
        directory = tmp_path / "input"
        shutil.rmtree(directory, ignore_errors=True)
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        single = options.pop("single", ("",))  # True for the only file
        given = [directory / name for name in (files if single is True else single)]
        sources = find_jobs(given, **options)
        jobs = [source.read() for source in sources]
        for source, job in zip(sources, jobs, strict=True):
            assert source.num_res == sum(len(chain.sequence) for chain in job.chains)
        return [(s.name, [c.sequence for c in j.chains]) for s, j in zip(sources, jobs, strict=True)]

    return find


FASTA = f">one first\n{A}\n>two/../x\n{A}:\n{B}\n>one\n{B}\n"
TABLE = f"ID,note,sequence,stoichiometry\none,,{A},\n\nthe second,x,{A}:{B},2:1\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.fasta", FASTA, [("one", [A]), ("two_.._x", [A, B]), ("one_2", [B])]),
        ("x.fasta.gz", FASTA, [("one", [A]), ("two_.._x", [A, B]), ("one_2", [B])]),
        ("own name.fasta", f">one\n{A}\n", [("own_name", [A])]),
        ("x", FASTA, [("one", [A]), ("two_.._x", [A, B]), ("one_2", [B])]),
        ("x.csv", TABLE, [("one", [A]), ("the_second", [A, A, B])]),
        ("x.tsv", TABLE.replace(",", "\t").replace("\n", "\r\n"), [("one", [A]), ("the_second", [A, A, B])]),
        ("x.csv.gz", f'id,sequence\n"a, b","{A.lower()[:3]}\n {A[3:]}*"\n', [("a_b", [A])]),
        ("x.a3m", a3m(A, "-CDaEFG"), [("x", [A])]),
        ("x.a3m", f"#6,5\t2,1\n{a3m(A + B)}", [("x", [A, A, B])]),
        ("x.a3m.gz", a3m("ACDX\nEFG"), [("x", ["ACDXEFG"])]),
        ("x.sto", sto(A), [("x", [A])]),
    ],
)
def test_files(found, name, content, expected):
    assert found({name: content}, single=True) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # one job: its files belong together
        ({"q.fasta": f">q\n{A}\n>r\n{B}\n", "chain1_bfd.a3m": a3m(A)}, [("input", [A, B])]),
        ({"q.fasta": f">q\n{A}\n>r\n{B}\n", "A/bfd.a3m": a3m(A)}, [("input", [A, B])]),
        ({"bfd.a3m": a3m(A), "mgnify.sto": sto(A)}, [("input", [A])]),
        ({"bfd.a3m": a3m("ACDXFG"), "uniref90.a3m": a3m(A)}, [("input", ["ACDEFG"])]),
        ({"chain1_x.a3m": a3m(A), "chain2_x.a3m": a3m(B)}, [("input", [A, B])]),
        ({"A/bfd.a3m": a3m(A), "B/bfd.a3m": a3m(B)}, [("input", [A, B])]),
        ({"chain1/bfd.a3m": a3m(A), "chain2/bfd.a3m": a3m(B)}, [("input", [A, B])]),
        # several
        ({"q.fasta": f">q\n{A}\n>r\n{B}\n"}, [("q", [A]), ("r", [B])]),
        ({"p.fasta": f">q\n{A}\n", "q.fasta": f">q\n{B}\n"}, [("p", [A]), ("q", [B])]),
        ({"p.a3m": a3m(A), "q.a3m": a3m(B), "r.a3m": f"#6\t2\n{a3m(A)}"}, [("p", [A]), ("q", [B]), ("r", [A, A])]),
        ({"p.fasta": f">q\n{A}\n", "r.fa": f">q\n{A}\n", "q.a3m": a3m(B)}, [("p", [A]), ("r", [A]), ("q", [B])]),
        ({"x.csv": TABLE}, [("one", [A]), ("the_second", [A, A, B])]),
        ({"P1/bfd.a3m": a3m(A), "P10/q.fasta": f">q\n{B}\n"}, [("P1", [A]), ("q", [B])]),
        ({"set/P1/bfd.a3m": a3m(A), "set/P2/bfd.a3m": a3m(B), "notes/x.txt": ""}, [("P1", [A]), ("P2", [B])]),
    ],
)
def test_directories(found, files, expected):
    assert found(files) == expected


def test_taken_together(found):
    assert found({"x.fasta": FASTA}, single=True, joined=True) == [("x", [A, A, B, B])]
    assert found({"P1/bfd.a3m": a3m(A), "P2/bfd.a3m": a3m(B)}, joined=True) == [("input", [A, B])]


def test_copies(found):
    assert found({"x.a3m": a3m(A)}, single=True, copies=(3,)) == [("x", [A, A, A])]
    with pytest.raises(InputError, match="2 chains"):
        found({"x.fasta": f">q\n{A}:{B}\n"}, single=True, copies=(3,))


def test_reserved_names_are_not_given(tmp_path):
    (tmp_path / "x.fasta").write_text(f">summary.csv\n{A}\n>b\n{A}\n")
    assert [source.name for source in find_jobs([tmp_path / "x.fasta"], reserved=("summary.csv",))] == [
        "summary.csv_2",
        "b",
    ]


def test_a_broken_job_is_told_when_it_is_read(tmp_path):
    (tmp_path / "good.a3m").write_text(a3m(A))
    (tmp_path / "bad.a3m").write_text(a3m(B, "XX"))
    bad, good = find_jobs([tmp_path])
    assert good.read().chains[0].sequence == A
    with pytest.raises(InputError, match="line 3"):
        bad.read()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", "sequence\nACD\n", "line 1: the first line must name the columns"),
        ("x.csv", "id,sequence,id\n", "must name the columns"),
        ("x.csv", "id,sequence\n", "without rows"),
        ("x.csv", "id,sequence\na\n", "line 2: the row has nothing in the column 'sequence'"),
        ("x.csv", "id,sequence\na,ACD\nb,AC1\n", "line 3, letter 3 of the sequence: '1' in 'b' is no amino acid"),
        ("x.csv", "id,sequence\na,AC::D\n", "line 2: 'a' has an empty chain"),
        ("x.csv", 'id,sequence\na,"ACD\n', "not a table"),
        ("x.csv", "id,sequence,stoichiometry\na,ACD,0\n", "stoichiometry '0'"),
        ("x.csv", "id,sequence,stoichiometry\na,ACD,1:2\n", "1 chains"),
        ("x.csv", f"id,sequence\na,{'A' * 140_000}\n", "field larger than"),
        ("x.fasta", ">a\nACD:\n", "empty chain"),
        ("x.json", "{", "column 1: not JSON"),
        ("x.json", "[]", "an empty list"),
        ("x.json", "[1]", "job 1: a job must be an object, not '1'"),
        ("x.json", "[" * 100_000, "cannot be read"),
        ("x.json", '{"name": "x"}', "'sequences' must be a list"),
        ("x.json", '{"name": "x", "sequences": []}', "at least one protein"),
        (
            "x.json",
            '{"sequences": [{"dna": {"id": "A", "sequence": "ACGT"}}]}',
            "sequence 1: 'dna'; accepted are proteins",
        ),
        ("x.json", '{"sequences": [{"protein": {"id": "A"}}]}', "'sequence' must be a text"),
        ("x.json", '{"sequences": [{"protein": {"id": [], "sequence": "AC"}}]}', "'id'"),
        ("x.json", '{"sequences": [{"proteinChain": {"count": 1e9, "sequence": "AC"}}]}', "'count'"),
        ("x.json", '{"sequences": [{"protein": {"id": "A", "sequence": "A:C"}}]}', "':' in a sequence"),
        (
            "x.json",
            '{"sequences": [{"protein": {"id": "A", "sequence": "AC", "modifications": [{"ptmType": "HY3"}]}}]}',
            "no modified residues",
        ),
        ("x.json", '{"modelSeeds": [-1], "sequences": [{"protein": {"id": "A", "sequence": "AC"}}]}', "the seed '-1'"),
        (
            "x.json",
            '{"sequences": [{"protein": {"id": "A", "sequence": "AC", "unpairedMsa": ">q\\nAD\\n"}}]}',
            "first row is not the chain's sequence",
        ),
        (
            "x.json",
            '{"sequences": [{"protein": {"id": "A", "sequence": "AC", "unpairedMsaPath": "none.a3m"}}]}',
            "none.a3m: no such file",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    message = faults([tmp_path / name])[-1]
    assert expected in message and str(tmp_path) in message and "\n" not in message


def test_missing_input(tmp_path):
    for name in ("x.fasta", "x.a3m", "x.csv", "x.npz", "x", "x" * 300):
        with pytest.raises(InputError, match="no such file"):
            find_jobs([tmp_path / name])
    (tmp_path / "there.fasta").write_text(f">x\n{A}\n")
    with pytest.raises(InputError, match=r"p\.csv, .*q\.fasta: no such file"):  # all that is mistyped at once
        find_jobs([tmp_path / name for name in ("p.csv", "there.fasta", "q.fasta")])
    with pytest.raises(InputError, match="no INPUT: accepted are one or more"):
        find_jobs([])


ENTRY = {"name": "one", "sequences": [{"protein": {"id": "A", "sequence": A}}]}
LIGAND = {"name": "two", "sequences": [{"ligand": {"id": "L", "ccdCodes": ["ATP"]}}]}


@pytest.mark.parametrize(
    ("files", "names", "bad"),
    [
        ({"x.fasta": f">one\n{A}\n>two\nAC1\nA2\n>three\n{B}\n"}, ["one", "two", "three"], "line 4, column 3: '1'"),
        ({"x.fasta": f">one\n{A}\n>two\n>three\n{B}\n"}, ["one", "two", "three"], "'two' has no sequence"),
        ({"x.fasta": f">one\n{A}\n>two\nAC::D\n>three\n{B}*\n"}, ["one", "two", "three"], "'two' has an empty chain"),
        ({"x.csv": f"id,sequence\none,{A}\ntwo,AC1\nthree,{B}\n"}, ["one", "two", "three"], "line 3, letter 3 of the"),
        ({"x.csv": f"id,sequence\none,{A}\ntwo\nthree,{B}\n"}, ["one", "two", "three"], "line 3: the row has nothing"),
        ({"x.json": json.dumps([ENTRY, LIGAND, ENTRY])}, ["one", "two", "one_2"], "job 2, sequence 1: 'ligand'"),
        ({"x.json": json.dumps([ENTRY, 1, ENTRY])}, ["one", "x", "one_2"], "job 2: a job must be an object"),
        ({"p.fa": f">a\n{A}\n", "q.fa": "prose", "r.fa": f">b\n{B}\n"}, ["p", "q", "r"], "q.fa, line 1: not a FASTA"),
        ({"p.a3m": a3m(A), "q.a3m": a3m(B, "-"), "r.a3m": a3m(B)}, ["p", "q", "r"], "q.a3m, line 3: the row 'hit0'"),
        (
            {"p.csv": f"id,sequence\np,{A}\n", "q.csv": "x", "r.json": json.dumps(ENTRY)},
            ["p", "q", "one"],
            "q.csv, line 1",
        ),
    ],
)
def test_what_is_wrong_with_one_job_leaves_the_others(tmp_path, files, names, bad):
    directory = tmp_path / "directory"
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_text(content)
    for given in [directory], [directory / name for name in files]:
        first, wrong, third = find_jobs(given)
        assert [first.name, wrong.name, third.name] == names
        assert first.read().chains and third.read().chains and first.error is third.error is None
        with pytest.raises(InputError) as error:
            wrong.read()
        assert bad in str(error.value)
        assert wrong.error is error.value or bad.startswith("q.a3m")  # an alignment is not read before its turn


def test_pipes_are_fasta(tmp_path, monkeypatch):
    text = f">one\n{A}\n>two\n{B}\n".encode()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr(job_sources, "_STANDARD_INPUT", fifo)

    def find(content: bytes, given: str | Path, **options) -> list[tuple[str, list[str]]]:
        with ThreadPoolExecutor(1) as writer:
            writer.submit(fifo.write_bytes, content)
            return [
                (source.name, [chain.sequence for chain in source.read().chains])
                for source in find_jobs([given], **options)
            ]

    assert find(text, "-") == find(gzip.compress(text), fifo) == [("one", [A]), ("two", [B])]
    assert find(f">one\n{A}\n".encode(), "-") == [("one", [A])]
    assert find(text, "-", joined=True) == [("job", [A, B])]
    with pytest.raises(InputError, match=r"its name must end in \.a3m or \.sto"):
        find(sto(A).encode(), "-")


def test_alignments_kept_by_a_run_bear_the_name_of_their_job(found):
    kept = {"first/msas/one.fasta": f">A x\n{A}\n", "first/msas/A/bfd_hits.a3m": a3m(A)}
    other = {"second/msas/bfd_hits.sto": sto(A)}  # AlphaFold's have no FASTA
    assert found({**kept, **other}, single=("first/msas", "second/msas")) == [("one", [A]), ("second", [A])]
    manifest = {"first/manifest.json": MANIFEST, "first/one_x_arrays.npz": "", "first/ranking.json": "{}"}
    assert found({**kept, **manifest}, single=("first",)) == [("one", [A])]
    assert found({**kept, **manifest}, single=("first",), joined=True) == [("one", [A])]
    assert found({**kept, **manifest, "summary.csv": "job,status\n"}) == [("one", [A])]


MANIFEST = '{\n "format": 1,\n "finished": {}\n}'


def test_predictions_without_alignments_are_no_input(tmp_path):
    (tmp_path / "manifest.json").write_text(MANIFEST)
    (tmp_path / "x_arrays.npz").write_text("")
    assert "holds the predictions of a job without alignments" in faults([tmp_path])[0]


def test_alphafold_3_documents(tmp_path):
    (tmp_path / "pairs.a3m").write_text(a3m(B))
    own = {
        "name": "My job",
        "modelSeeds": [3, "7", 3],
        "dialect": "alphafold3",
        "version": 1,
        "sequences": [
            {"protein": {"id": ["A", "C"], "sequence": A, "unpairedMsa": a3m(A, "ACDE-G"), "pairedMsa": ""}},
            {"protein": {"id": "B", "sequence": B, "unpairedMsa": "", "pairedMsaPath": "pairs.a3m"}},
            {"protein": {"id": "D", "sequence": B, "unpairedMsa": None, "templates": []}},
        ],
    }
    server = [
        {"name": "s", "modelSeeds": [], "sequences": [{"proteinChain": {"sequence": A, "count": 2}}]},
        {"name": "s", "sequences": [{"proteinChain": {"sequence": B}}]},
    ]
    (tmp_path / "own.json").write_text(json.dumps(own))
    (tmp_path / "server.json").write_text(json.dumps(server))
    first, second, third = (source.read() for source in find_jobs([tmp_path / "own.json", tmp_path / "server.json"]))
    assert (first.name, first.seeds) == ("My_job", (3, 7))
    assert [(c.id, c.sequence) for c in first.chains] == [("A", A), ("C", A), ("B", B), ("D", B)]
    assert [[len(each.residues) for each in chain.alignments] for chain in first.chains] == [[2], [2], [1], []]
    assert [chain.paired.source if chain.paired else None for chain in first.chains] == [None, None, "uniprot", None]
    assert [c.sequence for c in second.chains] == [A, A] and second.seeds == () and third.chains[0].paired is None


@pytest.fixture
def template(shared_data):
    """A structure of one chain, and its sequence."""
    for path in sorted((shared_data / "mmcif").glob("*.cif")):
        polymers = list(read_structure(path).polymers.values())
        if len(polymers) == 1:
            return path, polymers[0].letters
    pytest.fail("no structure of one chain")


def protein(**fields) -> str:
    return json.dumps({"name": "x", "sequences": [{"protein": {"id": "A", **fields}}]})


def test_alphafold_3_templates(tmp_path, template):
    path, letters = template
    sequence = letters[2:]
    indices = {"queryIndices": list(range(len(sequence))), "templateIndices": list(range(2, len(letters)))}
    few = {"queryIndices": list(range(10)), "templateIndices": list(range(2, 12))}
    (tmp_path / "beside.cif.xz").write_bytes(lzma.compress(path.read_bytes()))
    entries = [{"mmcif": path.read_text(), **indices}, {"mmcifPath": "beside.cif.xz", **few}]
    (tmp_path / "x.json").write_text(protein(sequence=sequence, templates=entries))
    (source,) = find_jobs([tmp_path / "x.json"])
    found = source.read().chains[0].templates
    expected = template_of_chain(read_structure(path), None, sequence)
    np.testing.assert_array_equal(found.aatype[0], expected.aatype)
    np.testing.assert_array_equal(found.positions[0], expected.positions)
    np.testing.assert_array_equal(found.atom_mask[1, :10], expected.atom_mask[:10])
    assert not found.atom_mask[1, 10:].any()
    for given, count in ((None, None), ([], 0)):
        (tmp_path / "x.json").write_text(protein(sequence=sequence, templates=given))
        (chain,) = find_jobs([tmp_path / "x.json"])[0].read().chains
        assert (chain.templates if count is None else len(chain.templates)) == count


@pytest.mark.parametrize(
    ("template_fields", "expected"),
    [
        ({}, "template 1: neither 'mmcif' nor 'mmcifPath'"),
        ({"mmcif": "data_x", "mmcifPath": "x.cif"}, "both 'mmcif' and 'mmcifPath'"),
        ({"mmcifPath": "none.cif"}, "none.cif: no such file"),
        ({"mmcif": "not an mmCIF file"}, "template 1, mmcif: not an mmCIF file"),
        ({"mmcif": "", "queryIndices": [0]}, "1 'queryIndices' and 2 'templateIndices'"),
        ({"mmcif": "", "queryIndices": [1, 1]}, "each residue of the query once"),
        ({"mmcif": "", "queryIndices": ["a", 1]}, "'queryIndices' holds '\"a\"'"),
        ({"mmcif": "", "templateIndices": None}, "'templateIndices' must be a list"),
        ({"mmcifPath": "ONE", "queryIndices": [0, 99]}, "'queryIndices' holds 99, but there are 4 residues"),
        ({"mmcifPath": "ONE", "templateIndices": [0, -1]}, "'templateIndices' holds -1"),
        ({"mmcifPath": "MANY"}, "chains of amino acids ("),
    ],
)
def test_alphafold_3_templates_that_are_refused(tmp_path, shared_data, template, template_fields, expected):
    entry = {"queryIndices": [0, 1], "templateIndices": [0, 1], **template_fields}
    if entry.get("mmcifPath") in ("ONE", "MANY"):
        many = shared_data / "mmcif" / "2q2k.cif"
        entry["mmcifPath"] = str(many if entry["mmcifPath"] == "MANY" else template[0])
    (tmp_path / "x.json").write_text(protein(sequence="ACDE", templates=[entry]))
    (message,) = faults([tmp_path / "x.json"])
    assert expected in message and "\n" not in message


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"ligand": {"id": "L", "ccdCodes": ["ATP"]}}, "sequence 2: 'ligand'; accepted are proteins"),
        ({"rna": {"id": "L", "sequence": "ACGU"}}, "sequence 2: 'rna'"),
        ({"dnaSequence": {"sequence": "ACGT", "count": 1}}, "sequence 2: 'dnaSequence'"),
        ({"protein": {"id": "B", "sequence": "AC", "glycans": [{}]}}, "sequence 2: 'glycans': AlphaFold 2 has no"),
    ],
)
def test_other_molecules_are_named(tmp_path, document, expected):
    entry = {"name": "x", "sequences": [{"protein": {"id": "A", "sequence": "AC"}}, document]}
    (tmp_path / "x.json").write_text(json.dumps(entry))
    assert expected in faults([tmp_path / "x.json"])[0]
    entry = {"sequences": entry["sequences"][:1], "bondedAtomPairs": [[["A", 1, "SG"], ["A", 2, "SG"]]]}
    (tmp_path / "x.json").write_text(json.dumps(entry))
    assert "'bondedAtomPairs': AlphaFold 2 has no bonds" in faults([tmp_path / "x.json"])[0]


def test_names_are_unique_over_all_inputs(tmp_path):
    for directory in ("p", "q"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "same.fasta").write_text(f">x\n{A}\n")
    sources = find_jobs([tmp_path / "p" / "same.fasta", tmp_path / "q" / "same.fasta"])
    assert [source.name for source in sources] == ["same", "same_2"]


def test_real_directories(shared_data):
    lengths = {source.name: source.num_res for source in find_jobs([shared_data / "msa"])}
    assert list(lengths) == ["2q2k_A", "2q2k_B", "3G5O", "6KWC_1", "cobra73"]
    assert (lengths["3G5O"], lengths["6KWC_1"], lengths["cobra73"]) == (180, 191, 73)
