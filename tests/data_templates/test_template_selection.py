"""Which hits become templates and what atoms they have: against DeepMind's pipeline, and every rejection's reason."""

import datetime
import gzip
import logging
import shutil
from pathlib import Path

import gemmi
import numpy as np
import peer
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastfold_jax.constants import ATOM37_INDEX, GAP, MSA_LETTERS
from fastfold_jax.data.job import read_job
from fastfold_jax.data.structure import read_structure
from fastfold_jax.data.template_features import Rejected, stack, template_of_chain, template_of_hit
from fastfold_jax.data.template_hits import TemplateHit, read_hits
from fastfold_jax.data.template_selection import Library, Rules, read_successors, select
from fastfold_jax.data.textfile import InputError

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
ANY = Rules(latest=None, most=20)


def hit_of(sequence: str, query: str, *, entry: str, chain: str = "A", start: int = 0, **changes) -> TemplateHit:
    """A hit without gaps of the whole `sequence` from a residue of the query on."""
    index = np.arange(min(len(sequence), len(query) - start))
    fields = {"aligned_columns": len(index), "sum_probs": None, **changes}
    return TemplateHit(entry=entry, chain=chain, sequence=sequence, query=index + start, hit=index, **fields)


@pytest.fixture
def cobra(shared_data):
    query = read_job(shared_data / "msa" / "cobra73").chains[0].sequence
    return query, read_hits(shared_data / "msa" / "cobra73" / "pdb70_hits.hhr", query)


@pytest.mark.parametrize("date", ["2100-01-01", "2013-08-01"])
def test_hits_of_hhsearch_equal_the_reference(shared_data, cobra, date, caplog):
    query, hits = cobra
    library = Library(directory=shared_data / "mmcif")
    parsers, _ = peer.modules()
    text = (shared_data / "msa" / "cobra73" / "pdb70_hits.hhr").read_text()
    there = [hit for hit in parsers.parse_hhr(text) if (library.directory / f"{hit.name[:4].lower()}.cif").is_file()]
    reference = peer.featurize([hit for hit in there if peer.worth(hit, query)], query, library.directory, date=date)
    with caplog.at_level(logging.DEBUG):
        made = select(hits, query, library, Rules(latest=datetime.date.fromisoformat(date), most=20))
    templates = stack(made, len(query))
    assert [template.name for template in made] == reference["names"]
    assert len(made) == {"2100-01-01": 6, "2013-08-01": 4}[date]
    np.testing.assert_array_equal(templates.aatype, reference["aatype"])
    np.testing.assert_array_equal(templates.atom_mask, reference["atom_mask"])
    np.testing.assert_allclose(templates.positions, reference["positions"], atol=1e-4)
    assert "template 1hf9_B rejected" in caplog.text and "has no 1hf9.cif" in caplog.text
    why = {"2100-01-01": "0 of the atoms that it is aligned to are known", "2013-08-01": "released on 2016-"}[date]
    assert f"template 5kc1_F rejected: {why}" in caplog.text


def test_as_many_as_asked_for(shared_data, cobra):
    query, hits = cobra
    made = select(hits, query, Library(directory=shared_data / "mmcif"), Rules(latest=None, most=2))
    assert [template.name for template in made] == ["3u8v_A", "4zey_A"]


def test_hits_of_hmmsearch_equal_the_reference(shared_data, cobra):
    parsers, _ = peer.modules()
    query, _ = cobra
    structure = read_structure(shared_data / "mmcif" / "3u8v.cif")
    text = ""
    for polymer in structure.polymers.values():  # chains of equal sequence, so that later ones repeat the first
        row = "-" * 10 + polymer.letters[20:40] + polymer.letters[40:45].lower() + polymer.letters[45:70]
        text += f">3u8v_{polymer.author}/21-70 mol:protein length:93\n{row}{'-' * (len(query) - 55)}\n"
    from fastfold_jax.data.template_hits import parse_a3m_hits

    made = select(parse_a3m_hits(text.encode(), query, file="x"), query, Library(directory=shared_data / "mmcif"), ANY)
    hits = parsers.parse_hmmsearch_a3m(query, text, skip_first=False)
    reference = peer.featurize(hits, query, shared_data / "mmcif", hmmsearch=True)
    assert len(hits) > len(made) == 1
    templates = stack(made, len(query))
    np.testing.assert_array_equal(templates.aatype, reference["aatype"])
    np.testing.assert_allclose(templates.positions, reference["positions"], atol=1e-4)


@pytest.mark.parametrize("entry", ["1psm", "2q2k", "3u8v", "3zee", "4i6p", "4zey", "5kc1"])
def test_whole_chains_equal_the_reference(shared_data, entry):
    """A hit to all residues of each chain, modified and unseen ones among them."""
    parsers, _ = peer.modules()
    structure = read_structure(shared_data / "mmcif" / f"{entry}.cif")
    for polymer in structure.polymers.values():
        query = "A" * len(polymer.letters)
        hit = hit_of(polymer.letters, query, entry=entry, chain=polymer.author)
        made = template_of_hit(hit, structure, query)
        theirs = parsers.TemplateHit(
            index=1,
            name=f"{entry}_{polymer.author}",
            aligned_cols=len(query),
            sum_probs=1.0,
            query=query,
            hit_sequence=polymer.letters,
            indices_query=list(range(len(query))),
            indices_hit=list(range(len(query))),
        )
        reference = peer.featurize([theirs], query, shared_data / "mmcif")
        np.testing.assert_array_equal(made.aatype, reference["aatype"][0])
        # The reference keeps the end's second oxygen (OXT), which no model looks at.
        columns = np.arange(37) != ATOM37_INDEX["OXT"]
        np.testing.assert_array_equal(made.atom_mask[:, columns], reference["atom_mask"][0][:, columns])
        np.testing.assert_allclose(made.positions[:, columns], reference["positions"][0][:, columns], atol=1e-4)


def reason(caplog, hit, query, library, rules=ANY) -> str:
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        made = select([hit], query, library, rules)
    assert not made
    (line,) = [record.getMessage() for record in caplog.records if "rejected:" in record.getMessage()]
    assert "template hits not used: 1 " in caplog.text
    assert line.startswith(f"template {hit.name} rejected: ")
    return line.partition("rejected: ")[2]


def test_every_rejection_has_a_reason(shared_data, caplog, tmp_path):
    directory = tmp_path / "mmcif"
    shutil.copytree(shared_data / "mmcif", directory)
    (directory / "9bad.cif").write_text("data_x\nloop_\n_a.b\n")
    (directory / "9old.cif").write_text((directory / "3u8v.cif").read_text().replace("revision_date", "other_date"))
    library = Library(directory=directory, successors={"1old": "3u8v", "1gon": "", "1new": "1gon"})
    chain = next(iter(read_structure(directory / "3u8v.cif").polymers.values())).letters
    query = "W" + chain + "W" * 10
    good = {"entry": "3u8v", "start": 1}
    assert select([hit_of(chain, query, **good)], chain[:40] + "W" * 60, library, ANY)
    early = Rules(latest=datetime.date(2000, 1, 1), most=20)
    cases = {
        "covers 5 of 104": hit_of(chain, query, **good, aligned_columns=5),
        "is 9 residues long": hit_of("M" * 9, query, entry="3u8v", aligned_columns=50),
        "has no 9xyz.cif": hit_of(chain[:60], query, entry="9xyz"),
        "the PDB has withdrawn 1gon": hit_of(chain[:60], query, entry="1gon"),
        "neither 1new.cif nor its successor 1gon.cif": hit_of(chain[:60], query, entry="1new"),
        "no atoms; a truncated file": hit_of(chain[:60], query, entry="9bad"),
        "has no chain Z and no chain of its sequence": hit_of("W" * 50, query, entry="3u8v", chain="Z"),
        "differs from the structure's: ": hit_of("W" * 50, query, entry="3u8v"),
        "has no ../3u8v.cif": hit_of(chain[:60], query, entry="../3u8v"),
    }
    for said, hit in cases.items():
        assert said in reason(caplog, hit, query, library)
    assert "released on 20" in reason(caplog, hit_of(chain[:60], query, **good), query, library, early)
    assert "tells no release date" in reason(caplog, hit_of(chain[:60], query, entry="9old"), query, library, early)
    assert "is a copy of the query, 93 of its 93" in reason(caplog, hit_of(chain, chain, entry="3u8v"), chain, library)
    assert "successor" not in caplog.text
    with caplog.at_level(logging.DEBUG):
        assert select([hit_of(chain[:60], query, entry="1old")], query, library, ANY)


def test_structures_by_their_middle_letters_and_packed(tmp_path):
    (tmp_path / "l2").mkdir()
    structure = gemmi.read_structure(str(STRUCTURES / "1l2y.pdb"))
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string()
    (tmp_path / "l2" / "1l2y.cif.gz").write_bytes(gzip.compress(text.encode(), 1))
    assert Library(directory=tmp_path).read("1l2y").polymers


def test_a_hit_whose_sequence_differs_is_realigned(shared_data, cobra):
    query, _ = cobra
    structure = read_structure(shared_data / "mmcif" / "3u8v.cif")
    polymer = next(iter(structure.polymers.values()))
    # The hit's sequence lacks residues that the structure has, has two that it lacks, and one other letter.
    stretch = polymer.letters[10:30] + polymer.letters[32:50] + "GG" + polymer.letters[50:60]
    stretch = stretch[:5] + "W" + stretch[6:]
    hit = hit_of(stretch, query, entry="3u8v", start=3)
    made = template_of_hit(hit, structure, query)
    assert "realigned" in made.note
    atoms = structure.chain(polymer.label)
    expected = [*range(10, 30), *range(32, 50), None, None, *range(50, 60)]
    for place, target in enumerate(expected):
        if target is None:
            assert made.aatype[3 + place] == GAP and not made.atom_mask[3 + place].any()
        else:
            assert MSA_LETTERS[made.aatype[3 + place]] == polymer.letters[target]
            np.testing.assert_array_equal(made.positions[3 + place], atoms.positions[target])
    assert (made.aatype[:3] == GAP).all()


def test_sequences_with_unknown_residues_are_found(shared_data):
    structure = read_structure(shared_data / "mmcif" / "3u8v.cif")
    polymer = next(iter(structure.polymers.values()))
    letters = polymer.letters[:20] + "XX" + polymer.letters[22:60]
    made = template_of_hit(hit_of(letters, "A" * 70, entry="3u8v", chain="none"), structure, "A" * 70)
    assert not made.note and MSA_LETTERS[made.aatype[20]] == "X"
    np.testing.assert_array_equal(made.positions[30], structure.chain(polymer.label).positions[30])


def test_structures_of_the_user(shared_data, tmp_path):
    structure = read_structure(shared_data / "mmcif" / "2q2k.cif")
    first = next(iter(structure.polymers.values()))
    query = first.letters[:30] + "W" + first.letters[31:40] + first.letters[43:]
    made = template_of_chain(structure, None, query)
    assert made.name.endswith(f"2q2k.cif:{first.author}")
    assert "% identical" in made.note
    np.testing.assert_array_equal(made.positions[-5:], structure.chain(first.label).positions[-5:])
    assert MSA_LETTERS[made.aatype[30]] == first.letters[30]
    with pytest.raises(Rejected, match="has no chain Q; its chains of amino acids are "):
        template_of_chain(structure, "Q", query)
    pdb = tmp_path / "own.pdb"
    gemmi.read_structure(str(shared_data / "mmcif" / "2q2k.cif")).write_pdb(str(pdb))
    from_pdb = template_of_chain(read_structure(pdb), first.author, query)
    alpha = ATOM37_INDEX["CA"]
    both = (from_pdb.atom_mask[:, alpha] > 0) & (made.atom_mask[:, alpha] > 0)
    assert both.sum() > 40
    np.testing.assert_allclose(from_pdb.positions[both, alpha], made.positions[both, alpha], atol=2e-3)


def test_a_structure_with_a_jump_is_rejected(shared_data):
    structure = read_structure(shared_data / "mmcif" / "3u8v.cif")
    polymer = next(iter(structure.polymers.values()))
    for residue in structure._model[0].get_subchain(polymer.label):
        if residue.label_seq == 40:
            for atom in residue:
                atom.pos = gemmi.Position(900, 0, 0)
    with pytest.raises(Rejected, match="Å apart, more than 150"):
        template_of_hit(hit_of(polymer.letters, "A" * 93, entry="3u8v"), structure, "A" * 93)


def test_the_list_of_obsolete_entries(tmp_path):
    path = tmp_path / "obsolete.dat"
    path.write_text(
        " LIST OF OBSOLETE COORDINATE ENTRIES\nOBSLTE    06-NOV-19 6G9Y\n"
        "OBSLTE    31-JUL-94 116L     216L\nOBSLTE    26-SEP-06 2H33     2JM5 2OWI\n"
    )
    assert read_successors(path) == {"6g9y": "", "116l": "216l", "2h33": "2jm5"}
    path.write_text("nothing")
    with pytest.raises(InputError, match="no line begins with OBSLTE"):
        read_successors(path)


def test_any_mmcif_gives_templates_or_a_reason(shared_data, tmp_path_factory):
    whole = (shared_data / "mini_databases" / "mmcif" / "5y2e.cif").read_bytes()
    directory = tmp_path_factory.mktemp("mmcif")
    polymer = next(iter(read_structure(shared_data / "mini_databases" / "mmcif" / "5y2e.cif").polymers.values()))
    query = "W" * 5 + polymer.letters

    @settings(max_examples=60, deadline=None)
    @given(at=st.integers(0, len(whole)), cut=st.integers(0, 3000), noise=st.binary(max_size=30))
    @example(at=6493, cut=0, noise=b"%")  # a coordinate that is no number
    def check(at, cut, noise):
        (directory / "5y2e.cif").write_bytes(whole[:at] + noise + whole[at + cut :])
        hit = hit_of(polymer.letters[:40], query, entry="5y2e", chain=polymer.author, start=5)
        for template in select([hit], query, Library(directory=directory), ANY):
            assert np.isfinite(template.positions).all()

    check()
