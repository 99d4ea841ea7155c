"""The demo parameters: what the README's first command predicts, and what its files say about themselves."""

import itertools
from pathlib import Path

import gemmi
import numpy as np
import pytest
from tiny_stage import STRUCTURES

from fastfold_jax.config.presets import preset
from fastfold_jax.inference.cli import main
from fastfold_jax.inference.models import demo_file
from fastfold_jax.params.npz import Npz
from fastfold_jax.training.structure_metrics import structure_metrics

CRAMBIN = Path(__file__).parents[2] / "examples" / "crambin" / "crambin.fasta"


TRP_CAGE = "NLYIQWLKDGGPSSGRPPPS"


def chain_of(path: Path) -> gemmi.Chain:
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    return structure[0][0]


def alphas(path: Path) -> np.ndarray:
    return np.array([residue["CA"][0].pos.tolist() for residue in chain_of(path).get_polymer()])


@pytest.fixture(scope="module")
def prediction(tmp_path_factory):
    out = tmp_path_factory.mktemp("prediction")
    assert main([str(CRAMBIN), "--params", "demo", "--out", str(out), "--precision", "float32"]) == 0
    return out


def test_trp_cage_resembles_its_nmr_structure(tmp_path):
    (tmp_path / "trp_cage.fasta").write_text(f">trp_cage\n{TRP_CAGE}\n")
    assert main([str(tmp_path / "trp_cage.fasta"), "--params", "demo", "--out", str(tmp_path / "out")]) == 0
    predicted, true = alphas(tmp_path / "out" / "ranked_0.pdb"), alphas(STRUCTURES / "1l2y.pdb")
    scores = structure_metrics(predicted, true, np.ones(len(TRP_CAGE), bool))
    assert scores["lddt_ca"] >= 0.8, scores
    assert scores["gdt_ts"] >= 0.8, scores


def test_crambin_has_the_disulfide_bonds_of_its_crystal_structure(prediction):
    residues = {residue.seqid.num: residue for residue in chain_of(prediction / "ranked_0.pdb")}
    cysteines = [number for number, residue in residues.items() if residue.name == "CYS"]
    near = {
        (i, j)
        for i, j in itertools.combinations(cysteines, 2)
        if residues[i]["CB"][0].pos.dist(residues[j]["CB"][0].pos) < 5.5
    }
    assert near == {(3, 40), (4, 32), (16, 26)}


def test_its_files_say_what_they_are_worth(prediction):
    text = (prediction / "ranked_0.pdb").read_text()
    remarks = " ".join(line[11:].strip() for line in text.splitlines() if line.startswith("REMARK"))
    assert "FOR TRYING THE SOFTWARE ONLY" in remarks and "memorised a handful of proteins" in remarks
    assert "DeepMind's" not in remarks and "CC BY" not in remarks  # its weights are not theirs


def test_it_is_small_and_nobody_else_s(tmp_path, capsys):
    assert demo_file().stat().st_size <= 4 * 2**20
    with Npz(demo_file()) as file:
        assert all(key.startswith("alphafold/alphafold_iteration/") for key in file.specs)
    assert preset("demo").name == "demo"
    assert main([str(CRAMBIN), "--params", "demo", "--model", "model_1_ptm", "--out", str(tmp_path)]) == 2
    assert "--params demo holds the parameters of the model demo alone" in capsys.readouterr().err
