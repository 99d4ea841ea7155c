"""Reading structures: real entries, and small ones made for one question each."""

import gzip
from pathlib import Path

import cif
import gemmi
import numpy as np
import pytest

from fastfold_jax.constants import ATOM37_INDEX, ATOM37_MASK, RESTYPE_INDEX
from fastfold_jax.data.job import read_job
from fastfold_jax.data.structure import StructureError, read_structure, structure_name
from fastfold_jax.data.textfile import InputError

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"
CA, N, SD, NH1, NH2 = (ATOM37_INDEX[name] for name in ("CA", "N", "SD", "NH1", "NH2"))


def test_a_real_entry_and_its_alignment(shared_data):
    read = read_structure(shared_data / "mmcif" / "2q2k.cif")
    assert (read.release_date, read.resolution, read.method) == ("2008-02-05", 3.0, "X-RAY DIFFRACTION")
    assert [(polymer.label, polymer.author) for polymer in read.polymers.values()] == [("B", "A"), ("C", "B")]
    assert len(read.assembly_of("B")) == 4  # two protein chains, twice
    chain = read.chain("B")
    query = read_job(shared_data / "msa" / "2q2k_A").chains[0].sequence
    assert chain.sequence == query
    assert chain.atom_mask[:, CA].sum() == 45 and not chain.atom_mask[:22].any()
    # Neighbours that are both known are a peptide bond apart.
    known = chain.atom_mask[:, CA] > 0
    step = np.linalg.norm(np.diff(chain.positions[:, CA], axis=0), axis=1)[known[1:] & known[:-1]]
    assert ((step > 3.6) & (step < 4.0)).all()


def test_every_atom_is_one_of_its_residue(shared_data):
    for path in sorted((shared_data / "mmcif").glob("*.cif")):
        read = read_structure(path)
        chain = read.chain(next(iter(read.polymers)))
        types = np.array([RESTYPE_INDEX[letter] for letter in chain.sequence])
        assert not (chain.atom_mask * (1 - ATOM37_MASK[types])).any(), path
        assert not chain.positions[chain.atom_mask == 0].any()


def test_of_several_models_the_first(shared_data):
    read = read_structure(shared_data / "mmcif" / "1psm.cif")
    assert read.resolution is None and "NMR" in read.method
    models = gemmi.read_structure(str(shared_data / "mmcif" / "1psm.cif"))
    first = models[0]["A"][0]["CA"][0].pos
    np.testing.assert_allclose(read.chain("A").positions[0, CA], first.tolist(), atol=1e-3)


def test_selenomethionine_is_methionine_with_its_sulfur(shared_data):
    chain = read_structure(shared_data / "mmcif" / "4zey.cif").chain("A")
    known = [index for index, letter in enumerate(chain.sequence) if letter == "M" and chain.atom_mask[index, CA]]
    assert known and chain.atom_mask[known, SD].all()


def test_pdb_files_too():
    read = read_structure(STRUCTURES / "1l2y.pdb")
    assert (read.release_date, read.resolution, read.method) == (None, None, "SOLUTION NMR")
    (label,) = read.polymers
    assert read.chain(label).sequence == "NLYIQWLKDGGPSSGRPPPS"


def test_pdb_and_mmcif_of_a_prediction_are_read_alike(shared_data):
    read = read_structure(shared_data / "pdb" / "glucagon.pdb")
    assert (read.release_date, read.resolution) == ("1977-11-28", 3.0)
    prediction = shared_data / "pdb" / "ERR550519_2213899_unrelaxed_model_1"
    chains = []
    for suffix in (".pdb", ".cif"):
        read = read_structure(prediction.with_name(prediction.name + suffix))
        chains.append(read.chain(next(iter(read.polymers))))
    assert chains[0].sequence == chains[1].sequence
    np.testing.assert_allclose(chains[0].positions, chains[1].positions, atol=2e-3)
    np.testing.assert_allclose(chains[0].confidence, chains[1].confidence, atol=1e-2)


def test_missing_residues_keep_their_place(tmp_path):
    made = cif.structure({"A": cif.codes("ACDEFGHIKL")}, {"A": {1, 4, 5}})
    chain = read_structure(cif.write(tmp_path / "1abc.cif.gz", made)).chain("Ax")
    assert chain.sequence == "ACDEFGHIKL"
    np.testing.assert_array_equal(np.flatnonzero(chain.atom_mask[:, CA] == 0), [0, 3, 4])
    np.testing.assert_allclose(chain.positions[5, CA], [3.8 * 6, 0, 0], atol=1e-3)


def test_modified_residues_derive_from_amino_acids(tmp_path):
    made = cif.structure({"A": ["MSE", "SEP", "TPO", "PTR", "CSO", "HYP", "ZZZ"]})
    path = tmp_path / "m.cif"
    assert read_structure(cif.write(path, made)).chain("Ax").sequence == "MSTYCPX"
    # Rare ones are as the file itself says, unless one residue of its sequence stands for several.
    assert read_structure(cif.write(path, made, canonical="MSTYCPK")).chain("Ax").sequence == "MSTYCPK"
    assert read_structure(cif.write(path, made, canonical="MSTYCPTYG")).chain("Ax").sequence == "MSTYCPX"


def test_of_alternative_places_the_fullest(tmp_path):
    made = cif.structure({"A": cif.codes("AAA")})
    residue = made[0]["A"][1]
    for index in reversed(range(len(residue))):
        if residue[index].name == "CA":
            del residue[index]
    residue.add_atom(cif.atom("CA", (1, 1, 1), occupancy=0.3, altloc="A"))
    residue.add_atom(cif.atom("CA", (2, 2, 2), occupancy=0.5, altloc="B"))
    residue.add_atom(cif.atom("CA", (3, 3, 3), occupancy=0.2, altloc="C"))
    chain = read_structure(cif.write(tmp_path / "a.cif", made)).chain("Ax")
    np.testing.assert_allclose(chain.positions[1, CA], 2.0, atol=1e-4)


def test_arginine_ends_are_named_by_the_standard(tmp_path):
    made = cif.structure({"A": cif.codes("ARA")})
    for name, x in (("CD", 0.0), ("NH1", 4.0), ("NH2", 3.0)):
        made[0]["A"][1].add_atom(cif.atom(name, (x, 50.0, 0.0)))
    chain = read_structure(cif.write(tmp_path / "r.cif", made)).chain("Ax")
    assert chain.positions[1, NH1, 0] == 3.0 and chain.positions[1, NH2, 0] == 4.0


def test_operators_move_the_copies_of_an_assembly(shared_data):
    read = read_structure(shared_data / "mmcif" / "2q2k.cif")
    placed = [read.chain(label).moved(operator) for label, operator in read.assembly_of("B")]
    assert [chain.label for chain in placed] == ["B", "C", "B", "C"]
    known = placed[0].atom_mask[:, CA] > 0
    one, other = placed[0].positions[known, CA], placed[2].positions[known, CA]
    assert np.abs(one - other).max() > 5
    pairs = np.linalg.norm(one[:, None] - one, axis=-1) - np.linalg.norm(other[:, None] - other, axis=-1)
    assert np.abs(pairs).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "structure"),
    [("1abc.cif", "1abc"), ("1ABC.cif.gz", "1ABC"), ("pdb1abc.ent.gz", "1abc"), ("model_v4.pdb", "model_v4")],
)
def test_names_of_structures(tmp_path, name, structure):
    assert structure_name(tmp_path / name) == structure


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated_files_are_told(shared_data, tmp_path, cut):
    data = (shared_data / "mmcif" / "2q2k.cif").read_bytes()
    path = tmp_path / "cut.cif"
    end = data.index(b"\n", int(len(data) * cut)) + 1  # between two rows, where it looks whole
    for part in (data[:end], data[: end - 7]):
        path.write_bytes(part)
        with pytest.raises(StructureError, match=r"cut\.cif.*truncated"):
            read_structure(path)


def test_truncated_gzip_and_no_structure(tmp_path):
    packed = gzip.compress(cif.write(tmp_path / "a.cif", cif.structure({"A": cif.codes("AAA")})).read_bytes())
    (tmp_path / "b.cif.gz").write_bytes(packed[:-20])
    with pytest.raises(InputError, match=r"b\.cif\.gz.*truncated gzip"):
        read_structure(tmp_path / "b.cif.gz")
    (tmp_path / "c.cif").write_text("<html>not found</html>")
    with pytest.raises(StructureError, match=r"c\.cif: not an mmCIF"):
        read_structure(tmp_path / "c.cif")
    (tmp_path / "d.cif").write_text("data_x\n_cell.length_a 1\n")
    with pytest.raises(StructureError, match="no atoms"):
        read_structure(tmp_path / "d.cif")
    with pytest.raises(InputError, match="no such file"):
        read_structure(tmp_path / "e.cif")


def test_chain_missing(tmp_path):
    read = read_structure(cif.write(tmp_path / "a.cif", cif.structure({"A": cif.codes("AAA")})))
    with pytest.raises(StructureError, match=r"a\.cif: no polypeptide has the label_asym_id 'B'; found are Ax"):
        read.chain("B")


def test_a_chain_without_atoms(tmp_path):
    made = cif.structure({"A": cif.codes("AAAA"), "B": cif.codes("CCCC")}, {"B": {1, 2, 3}})
    for atom in made[0]["B"][0]:
        atom.name = f"H{atom.name}"
    read = read_structure(cif.write(tmp_path / "a.cif", made))
    assert read.resolved("Ax") == 4
    with pytest.raises(StructureError, match="no atom with known coordinates"):
        read.chain("Bx")


def test_structures_are_as_deepminds_code_reads_them(shared_data):
    parsing = pytest.importorskip("alphafold.data.mmcif_parsing")
    from alphafold.data.templates import _get_atom_positions

    compared = 0
    for path in sorted((shared_data / "mmcif").glob("*.cif")):
        theirs = parsing.parse(file_id=path.stem, mmcif_string=path.read_text()).mmcif_object
        read = read_structure(path)
        assert read.release_date == theirs.header["release_date"]
        assert (read.resolution or 0.0) == theirs.header["resolution"]
        assert sorted(polymer.author for polymer in read.polymers.values()) == sorted(theirs.chain_to_seqres)
        for label, polymer in read.polymers.items():
            positions, mask = _get_atom_positions(theirs, polymer.author, max_ca_ca_distance=np.inf)
            chain = read.chain(label)
            # The packaged copy reads modified residues as X, DeepMind's own (and ours) as what they derive from.
            sequence = theirs.chain_to_seqres[polymer.author]
            assert len(sequence) == len(chain.sequence)
            assert all(one == other or one == "X" for one, other in zip(sequence, chain.sequence, strict=True))
            # The last column is the terminal oxygen, which belongs to no residue type.
            np.testing.assert_array_equal(chain.atom_mask[:, :-1], mask[:, :-1])
            np.testing.assert_array_equal(chain.positions[:, :-1], np.float32(positions)[:, :-1])
            compared += 1
    assert compared > 20
