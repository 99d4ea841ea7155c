"""Structures and JSON files, read back by gemmi and by json."""

import dataclasses
import json
import os
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastfold_jax.atomic import replacing
from fastfold_jax.constants import ATOM37_INDEX, RESTYPE_3
from fastfold_jax.inference.files import OutputError, prepare_directory, write_atomically
from fastfold_jax.inference.mmcif import mmcif_text
from fastfold_jax.inference.provenance import RANDOM_WARNING, Relaxation
from fastfold_jax.inference.structure import build_structure, chain_ids, mark_relaxed, pdb_obstacle, pdb_text
from fastfold_jax.inference.writers import confidence_json, pae_json, write_prediction


def compare(structure: gemmi.Structure, prediction):
    """Everything that the file should say about atoms, chains and sequences."""
    structure.setup_entities()
    model = structure[0]
    assert [chain.name for chain in model] == [chain.id for chain in prediction.chains if is_seen(prediction, chain)]
    for chain in prediction.chains:
        if not is_seen(prediction, chain):
            continue
        found = model[chain.id]
        entity = structure.get_entity_of(found.get_polymer())
        assert list(entity.full_sequence) == [RESTYPE_3[a] for a in chain.aatype]
        residues = {residue.seqid.num: residue for residue in found}
        for i, number in enumerate(chain.numbers):
            mask = prediction.atom_mask[chain.start + i] > 0.5
            if not mask.any():
                assert number not in residues
                continue
            residue = residues.pop(int(number))
            assert residue.name == RESTYPE_3[chain.aatype[i]]
            assert len(residue) == mask.sum()
            for atom in residue:
                column = ATOM37_INDEX[atom.name]
                assert mask[column]
                assert atom.element.name == atom.name[0]
                np.testing.assert_allclose(
                    atom.pos.tolist(), prediction.atom_positions[chain.start + i, column], atol=6e-4
                )
                assert atom.b_iso == pytest.approx(prediction.plddt[chain.start + i], abs=6e-3)
                assert atom.occ == 1
        assert not residues


def is_seen(prediction, chain):
    return (prediction.atom_mask[chain.start : chain.stop] > 0.5).any()


def written(prediction, directory) -> dict[str, Path]:
    files = write_prediction(prediction, directory, "job")
    assert sorted(files) == sorted(path.name for path in directory.iterdir())
    return {"".join(name.partition("_seed0")[2]): directory / name for name in files}


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_round_trip(make_prediction, tmp_path, suffix):
    prediction = make_prediction("ARNDCQEGHILKMFPSTWYV", "GAXMW", "GAXMW")
    structure = gemmi.read_structure(str(written(prediction, tmp_path)[suffix]))
    compare(structure, prediction)
    if suffix == ".cif":
        assert len(structure.entities) == 2  # the two equal chains are copies of one entity
        assert structure.entities[1].subchains == ["B", "C"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sequences=st.lists(st.text("ARNDCQEGHILKMFPSTWYVX", min_size=1, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_mask_round_trips(make_prediction, tmp_path_factory, sequences, seed):
    prediction = make_prediction(*sequences)
    drawn = np.random.default_rng(seed).random(prediction.atom_mask.shape) < 0.7
    prediction = dataclasses.replace(prediction, atom_mask=prediction.atom_mask * drawn)
    if not all(is_seen(prediction, chain) for chain in prediction.chains):
        return
    files = written(prediction, tmp_path_factory.mktemp("any"))
    for suffix in (".pdb", ".cif"):
        compare(gemmi.read_structure(str(files[suffix])), prediction)


def test_chain_without_any_atom_keeps_its_sequence(make_prediction, tmp_path):
    files = written(make_prediction("GA", "XX"), tmp_path)
    structure = gemmi.read_structure(str(files[".cif"]))
    assert [list(entity.full_sequence) for entity in structure.entities] == [["GLY", "ALA"], ["UNK", "UNK"]]
    assert [chain.name for chain in structure[0]] == ["A"]


def test_residue_numbers_keep_gaps(make_prediction, tmp_path):
    prediction = make_prediction("GAG")
    chain = dataclasses.replace(prediction.chains[0], numbers=np.array([5, 6, 300]))
    prediction = dataclasses.replace(prediction, chains=(chain,))
    files = written(prediction, tmp_path)
    for suffix in (".pdb", ".cif"):
        compare(gemmi.read_structure(str(files[suffix])), prediction)


def test_both_formats_say_the_same(make_prediction, tmp_path):
    files = written(make_prediction("ARNDCQEGHILKMFPSTWYV", "MK"), tmp_path)
    pdb, cif = (gemmi.read_structure(str(files[suffix])) for suffix in (".pdb", ".cif"))
    atoms = [
        [(s.chain.name, str(s.residue.seqid), s.atom.name, s.atom.pos.tolist()) for s in x[0].all()] for x in (pdb, cif)
    ]
    assert atoms[0] == atoms[1]


def test_pdb_is_80_columns_of_ascii(make_prediction, tmp_path):
    prediction = make_prediction("GA")
    chain = dataclasses.replace(prediction.chains[0], description="protéine β " * 20)
    files = written(dataclasses.replace(prediction, chains=(chain,)), tmp_path)
    lines = files[".pdb"].read_bytes().decode("ascii").splitlines()
    assert max(map(len, lines)) <= 80
    assert any("EXPDTA    THEORETICAL MODEL" in line for line in lines)


def test_origin_and_licence_are_in_the_files(make_prediction, tmp_path):
    files = written(make_prediction("GA"), tmp_path)
    remarks = " ".join(
        line[11:].strip() for line in files[".pdb"].read_text().splitlines() if line.startswith("REMARK")
    )
    for text in (
        "model_1_ptm",
        "x.npz",
        "seed 0",
        "512:5120",
        "FastFold-JAX 0.1",
        "CC BY 4.0",
        "DeepMind",
        "10.1038/s41586-021-03819-2",
    ):
        assert text in remarks
    block = gemmi.cif.read(str(files[".cif"])).sole_block()
    assert block.find_value("_software.name").strip("'") == "FastFold-JAX"
    assert block.find_value("_software.version") == "0.1"
    assert "CC BY 4.0" in block.find_value("_pdbx_data_usage.details")
    local = block.find("_ma_qa_metric_local.", ["metric_id", "metric_value"])
    metric = {row[0]: row[1] for row in block.find("_ma_qa_metric.", ["id", "mode"])}
    assert len(local) == 2 and {metric[row[0]] for row in local} == {"local"}


def test_random_parameters_are_written_everywhere(make_prediction, tmp_path):
    prediction = make_prediction("GA")
    source = dataclasses.replace(prediction.provenance, parameters="random", warning=RANDOM_WARNING)
    files = written(dataclasses.replace(prediction, provenance=source), tmp_path)
    assert "MEANS NOTHING" in files[".pdb"].read_text().split("ATOM")[0]
    assert "CC BY" not in files[".pdb"].read_text()
    assert "MEANS NOTHING" in gemmi.cif.read(str(files[".cif"])).sole_block().find_value("_pdbx_data_usage.details")
    assert "MEANS NOTHING" in json.loads(files["_confidence.json"].read_text())["warning"]
    assert "MEANS NOTHING" in json.loads(files["_pae.json"].read_text())[0]["warning"]
    assert "MEANS NOTHING" in json.loads(files["_scores.json"].read_text())["warning"]


def test_confidence_has_the_database_form(make_prediction):
    scores = np.array([95.126, 90.0, 89.99, 70.0, 50.0, 49.9, 0.0], np.float32)
    content = confidence_json(make_prediction("GAGAGAG", plddt=scores))
    assert content == {
        "residueNumber": [1, 2, 3, 4, 5, 6, 7],
        "confidenceScore": [95.13, 90.0, 89.99, 70.0, 50.0, 49.9, 0.0],
        "confidenceCategory": ["H", "H", "M", "M", "L", "D", "D"],
    }


def test_pae_has_the_database_form(make_prediction, tmp_path):
    prediction = make_prediction("GA", pae=np.array([[0.1234, 31.0], [2.5, 0.0]], np.float32))
    content = [{"predicted_aligned_error": [[0.12, 31.0], [2.5, 0.0]], "max_predicted_aligned_error": 31.75}]
    assert pae_json(prediction) == content
    assert json.loads(written(prediction, tmp_path)["_pae.json"].read_text()) == content


def test_scores_have_colabfolds_form(make_prediction, tmp_path):
    pae = np.array([[0.1234, 31.006], [2.5, 0.0]], np.float32)
    prediction = make_prediction("GA", pae=pae, plddt=np.array([95.126, 7.0], np.float32), ptm=0.756, iptm=0.123)
    content = json.loads(written(prediction, tmp_path)["_scores.json"].read_text())
    assert content.pop("max_pae") == pytest.approx(31.006, abs=1e-5)
    assert content == {"plddt": [95.13, 7.0], "pae": [[0.12, 31.01], [2.5, 0.0]], "ptm": 0.76, "iptm": 0.12}


def test_nothing_of_aligned_errors_without_that_head(make_prediction, tmp_path):
    files = written(make_prediction("GA", pae=None, ptm=None), tmp_path)
    assert "_pae.json" not in files
    assert json.loads(files["_scores.json"].read_text()).keys() == {"plddt"}


def test_modelcif_says_what_it_must(make_prediction, tmp_path):
    """What version 1.4.6 of its dictionary asks for: an origin that it knows, and the assembly that others point to."""
    block = gemmi.cif.read(str(written(make_prediction("GA", "MK", "GA"), tmp_path)[".cif"])).sole_block()
    assert list(block.find_values("_ma_target_entity.origin")) == ["designed", "designed"]
    (assembly,) = block.find_values("_ma_struct_assembly_details.assembly_id")
    assert set(block.find_values("_ma_struct_assembly.assembly_id")) == {assembly}
    assert block.find_value("_ma_model_list.assembly_id") == assembly


def test_real_prediction(shared_data, make_prediction, tmp_path):
    """A structure that AlphaFold predicted, written by us, is that structure."""
    sequence = gemmi.one_letter_code([])
    source = gemmi.read_structure(str(shared_data / "real_outputs" / "6KWC_1_model_1_ptm_unrelaxed.pdb"))
    residues = list(source[0][0])
    sequence = gemmi.one_letter_code([residue.name for residue in residues])
    positions, mask = np.zeros((len(residues), 37, 3), np.float32), np.zeros((len(residues), 37), np.float32)
    for i, residue in enumerate(residues):
        for atom in residue:
            if atom.element.name != "H":
                positions[i, ATOM37_INDEX[atom.name]] = atom.pos.tolist()
                mask[i, ATOM37_INDEX[atom.name]] = 1
    plddt = np.array([residue[0].b_iso for residue in residues], np.float32)
    prediction = make_prediction(sequence, atom_positions=positions, atom_mask=mask, plddt=plddt, pae=None)
    compare(gemmi.read_structure(str(written(prediction, tmp_path)[".pdb"])), prediction)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"atom_positions": np.full((2, 37, 3), 1e4, np.float32)}, "coordinates"),
        ({"atom_positions": np.full((2, 37, 3), -1e3, np.float32)}, "coordinates"),
    ],
)
def test_mmcif_only_where_coordinates_do_not_fit(make_prediction, tmp_path, caplog, change, reason):
    prediction = make_prediction("GA", **change)
    files = written(prediction, tmp_path)
    assert ".pdb" not in files and reason in caplog.text
    compare(gemmi.read_structure(str(files[".cif"])), prediction)


def test_mmcif_only_for_63_chains(make_prediction, tmp_path, caplog):
    prediction = make_prediction(*["G"] * 63, ids=chain_ids(63))
    files = written(prediction, tmp_path)
    assert ".pdb" not in files and "63 chains" in caplog.text
    assert [chain.name for chain in gemmi.read_structure(str(files[".cif"]))[0]][-2:] == ["9", "AA"]


def test_mmcif_only_for_100_000_atoms(make_prediction):
    structure = build_structure(make_prediction("GW"), "job")
    chain = structure[0]["A"]
    glycine = chain[0].clone()
    for _ in range(24_995):
        chain.add_residue(glycine)
    assert structure[0].count_atom_sites() + 1 == 99_999  # with the record that ends the chain
    assert pdb_obstacle(structure) is None
    chain.add_residue(glycine)
    assert "100,003 atom records" in pdb_obstacle(structure)


def test_mmcif_only_for_10_000_residues(make_prediction):
    prediction = make_prediction("GA")
    for last, obstacle in ((9_999, None), (10_000, "residue number 10000, but the PDB format ends at 9999")):
        chain = dataclasses.replace(prediction.chains[0], numbers=np.array([1, last]))
        numbered = dataclasses.replace(prediction, chains=(chain,))
        assert pdb_obstacle(build_structure(numbered, "job")) == obstacle


def test_chain_ids_are_distinct():
    ids = chain_ids(1000)
    assert ids[:3] == ("A", "B", "C") and ids[61:63] == ("9", "AA") and len(set(ids)) == 1000


def test_a_structure_that_was_relaxed_says_so(make_prediction):
    prediction = make_prediction("GA")
    structure = build_structure(prediction, "job")
    relaxation = Relaxation(program="OpenMM 8.2", details="Relaxed by OpenMM 8.2.")
    mark_relaxed(structure, prediction, relaxation)
    assert "REMARK   6 Relaxed by OpenMM 8.2." in pdb_text(structure)
    block = gemmi.cif.read_string(mmcif_text(structure, prediction, relaxation)).sole_block()
    assert [list(row) for row in block.find("_software.", ["name", "version", "classification"])] == [
        ["FastFold-JAX", "0.1", "'model building'"],
        ["OpenMM", "8.2", "refinement"],
    ]
    names = ["method_type", "software_group_id", "input_data_group_id", "output_data_group_id"]
    predicted, relaxed = (list(row) for row in block.find("_ma_protocol_step.", names))
    assert predicted == ["modeling", "1", "1", "2"] and relaxed == ["'model refinement'", "2", "2", "3"]
    assert [row[0] for row in block.find("_ma_software_group.", ["software_id"])] == ["1", "2"]
    assert block.find_value("_ma_model_list.data_id") == "3"
    assert "Relaxed" not in pdb_text(build_structure(prediction, "job"))


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as first:
        first.write(b"first")
        write_atomically(path, "second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_unusable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(OutputError, match="cannot write to the output directory"):
            prepare_directory(directory)
    prepare_directory(tmp_path / "new" / "below")
    assert list((tmp_path / "new" / "below").iterdir()) == []
