"""Hits of HHsearch and hmmsearch: against DeepMind's parsers, and exact errors for whatever is damaged."""

import gzip

import numpy as np
import peer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfold_jax.data.job import read_job
from fastfold_jax.data.template_hits import TemplateHit, parse_a3m_hits, parse_hhr, parse_stockholm_hits, read_hits
from fastfold_jax.data.textfile import InputError

QUERY = "MKVLAAGIVRKWTTDE"
HHR = """Query         query
Match_columns 16

 No Hit                             Prob E-value
  1 1ABC_A Something                99.0 1E-20

No 1
>1ABC_A Something; HET: MSE
Probab=99.00  E-value=1e-20  Score=80.1  Aligned_cols=9  Identities=50%  Similarity=0.9  Sum_probs=8.5  Template_Neff=5

Q ss_pred             hhhhhhhh
Q query             2 KVLA-AGI    8 (16)
Q Consensus         2 kvla-agi    8 (16)
                      |||| |.|
T Consensus        11 kv~akaai   17 (90)
T 1ABC_A           11 KV-AKAAI   17 (90)
T ss_dssp             HHHHHHHH

Q query             9 VRK   11 (16)
T 1ABC_A           18 LRK   20 (90)

No 2
>UP20|weird A name that is no chain
Probab=9.0  E-value=1e-2  Score=8.1  Aligned_cols=3  Identities=50%  Similarity=0.9  Sum_probs=0.5  Template_Neff=5

Q query             1 MKV    3 (16)
T UP20|weird        1 MKV    3 (9)
"""
STO = """# STOCKHOLM 1.0

#=GS 1abc_A/3-12 DE [subseq from] mol:protein length:90  Something
#=GS 2xyz_B/1-4  DE [subseq from] mol:na length:90  A nucleic acid

1abc_A/3-12      --VLa.AGI-RK-
2xyz_B/1-4       --VL..AG-----
#=GC RF          xxxx..xxxxxxx
1abc_A/3-12      ---
2xyz_B/1-4       ---
#=GC RF          xxx
//
"""


def same(made: TemplateHit, reference, query: str) -> None:
    _, templates = peer.modules()
    mapping = templates._build_query_to_hit_index_mapping(
        reference.query, reference.hit_sequence, reference.indices_hit, reference.indices_query, query
    )
    assert made.name.upper() == reference.name.split()[0].upper()
    assert made.sequence == reference.hit_sequence.replace("-", "")
    assert made.aligned_columns == reference.aligned_cols and made.sum_probs == reference.sum_probs
    assert dict(zip(made.query.tolist(), made.hit.tolist(), strict=True)) == dict(mapping)


@pytest.mark.parametrize("name", ["cobra73/pdb70_hits.hhr", "6KWC_1/hhsearch_output.hhr"])
def test_hhr_files_equal_the_reference(shared_data, name):
    parsers, _ = peer.modules()
    path = shared_data / "msa" / name
    query = read_job(path.parent).chains[0].sequence
    made = read_hits(path, query)
    reference = sorted(parsers.parse_hhr(path.read_text()), key=lambda hit: hit.sum_probs, reverse=True)
    assert len(made) == len(reference) > 5
    for ours, theirs in zip(made, reference, strict=True):
        same(ours, theirs, query)


def test_an_hhr_in_detail():
    (hit,) = parse_hhr(HHR.encode(), QUERY, file="x.hhr")
    assert (hit.entry, hit.chain, hit.sequence, hit.sum_probs) == ("1abc", "A", "KVAKAAILRK", 8.5)
    assert hit.query.tolist() == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert hit.hit.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_an_hhr_without_hits():
    assert parse_hhr(b"Query q\n\n No Hit                             Prob E-value\n\n", QUERY, file="x.hhr") == []


def test_stockholm_in_detail(tmp_path):
    parsers, _ = peer.modules()
    (hit,) = parse_stockholm_hits(STO.encode(), QUERY[:14], file="x.sto")
    assert (hit.name, hit.sequence, hit.sum_probs) == ("1abc_A", "VLAAGIRK", None)
    assert hit.query.tolist() == [2, 3, 4, 5, 6, 8, 9] and hit.hit.tolist() == [0, 1, 3, 4, 5, 6, 7]
    a3m = parsers.convert_stockholm_to_a3m(STO, remove_first_row_gaps=False)
    (reference,) = parsers.parse_hmmsearch_a3m(QUERY[:14], a3m, skip_first=False)
    same(hit, reference, QUERY[:14])
    (again,) = parse_a3m_hits(a3m.encode(), QUERY[:14], file="x.a3m")
    assert again.sequence == hit.sequence and again.hit.tolist() == hit.hit.tolist()
    with_query = f">query\n{QUERY[:14]}\n{a3m}".encode()
    assert len(parse_a3m_hits(with_query, QUERY[:14], file="x.a3m")) == 1
    for name, text in (("x.sto", STO.encode()), ("x.a3m.gz", gzip.compress(a3m.encode()))):
        (tmp_path / name).write_bytes(text)
        assert len(read_hits(tmp_path / name, QUERY[:14])) == 1


BROKEN = {
    "of another query": (
        HHR.replace("KVLA-AGI", "KVLM-AGI"),
        r"line 7: the hit is to residues 2 to 11 of another query",
    ),
    "without a summary": (HHR.replace("Sum_probs", "Sum"), "line 7: the hit lacks its name or its line"),
    "without a name": (HHR.replace(">1ABC_A", "1ABC_A"), "line 7: the hit lacks its name"),
    "uneven": (HHR.replace("LRK   20", "LR   20"), "line 7: the rows of the query and of the template are not"),
    "a row of another form": (HHR.replace("11 KV-AKAAI   17 (90)", "11 KV-AKAAI"), "line 16: .* is no row of an alig"),
    "cut": (HHR[: HHR.index("T 1ABC_A")], "line 7: the rows of the query"),
    "an alignment": (">a_B/1-2\nMKV\n", "has 3 aligned columns, but the query has 16 residues"),
    "a FASTA": (">first\nMKV\n", "the name of the hit 'first' is not such as"),
    "digits": (">1abc_A/1-2\nMKV1\n", "no letter of an alignment"),
    "no list": ("something\n", "not a list of template hits"),
    "an empty list": ("Query x\nsomething\n", "not HHsearch's output"),
    "an unfinished Stockholm": (STO.replace("//\n", ""), "truncated"),
    "empty": ("", "empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, case):
    text, message = BROKEN[case]
    path = tmp_path / "hits"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_hits(path, QUERY)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("whole", [HHR, STO, ">1abc_A/3-12 mol:protein length:9\n--VLaAGI-RK---\n"])
def test_any_text_gives_hits_or_an_input_error(whole, tmp_path_factory):
    query = QUERY if whole is HHR else QUERY[:13] if whole is not STO else QUERY[:14]
    path = tmp_path_factory.mktemp("fuzz") / "hits"

    @settings(max_examples=150, deadline=None)
    @given(at=st.integers(0, len(whole)), cut=st.integers(0, 30), noise=st.text(max_size=12) | st.binary(max_size=9))
    def check(at, cut, noise):
        noise = noise.encode("utf-8", "surrogatepass") if isinstance(noise, str) else noise
        path.write_bytes(whole[:at].encode() + noise + whole[at + cut :].encode())
        try:
            hits = read_hits(path, query)
        except InputError:
            return
        for hit in hits:
            assert len(hit.query) == len(hit.hit) and (np.diff(hit.query) > 0).all() and (np.diff(hit.hit) > 0).all()
            assert 0 <= hit.query.min(initial=0) and hit.query.max(initial=0) < len(query)
            assert hit.hit.max(initial=-1) < len(hit.sequence)

    check()
