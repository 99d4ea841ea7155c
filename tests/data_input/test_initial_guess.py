"""Structures that predictions start from."""

import dataclasses
from pathlib import Path

import gemmi
import numpy as np
import pytest

from fastfold_jax.constants import ATOM37_INDEX
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.initial_guess import check_initial_guess, read_initial_guess, with_initial_guess
from fastfold_jax.data.job import Job
from fastfold_jax.data.job_chains import chains_of
from fastfold_jax.data.structure import read_structure
from fastfold_jax.errors import UserError
from fastfold_jax.model.recycling import distance_bins
from parallel import Axis

CRAMBIN = Path(__file__).parents[1] / "data" / "structures" / "crambin.pdb"
N, CA, C, CB = (ATOM37_INDEX[name] for name in ("N", "CA", "C", "CB"))
LENGTH = 46


def job(*lengths: int, name: str = "design") -> Job:
    return Job(name=name, chains=chains_of([Record(description="x", sequence="W" * length) for length in lengths]))


@pytest.fixture
def changed(tmp_path):
    """A function that writes crambin with its atoms and residues changed, as a PDB or an mmCIF file."""

    def write(name: str, *, keep=lambda residue, atom: True, chains: str = "A") -> Path:
        original = gemmi.read_structure(str(CRAMBIN))[0][0]
        model, structure = gemmi.Model(1), gemmi.Structure()
        for letter in chains:
            chain = gemmi.Chain(letter)
            for residue in original:
                new = residue.clone()
                for atom in [atom.name for atom in residue if not keep(residue, atom.name)]:
                    new.remove_atom(atom, "\0")
                chain.add_residue(new)
            model.add_chain(chain)
        structure.add_model(model)
        structure.setup_entities()
        path = tmp_path / name
        if path.suffix == ".cif":
            structure.make_mmcif_document().write_file(str(path))
        else:
            structure.write_pdb(str(path))
        return path

    return write


def test_atoms_are_those_of_the_file():
    guess = read_initial_guess(CRAMBIN, [LENGTH])
    structure = read_structure(CRAMBIN)
    chain = structure.chain(next(iter(structure.polymers)))
    known = chain.atom_mask > 0
    assert guess.file == "crambin.pdb" and guess.positions.shape == (LENGTH, 37, 3)
    np.testing.assert_array_equal(guess.positions[known], chain.positions[known])


@pytest.mark.parametrize("name", ["backbone.pdb", "backbone.cif"])
def test_beta_atoms_of_a_bare_backbone_are_put_where_they_would_be(changed, name):
    path = changed(name, keep=lambda residue, atom: atom in ("N", "CA", "C", "O"))
    found = read_initial_guess(path, [LENGTH]).positions
    expected = read_initial_guess(CRAMBIN, [LENGTH]).positions
    off = np.linalg.norm(found - expected, axis=-1)
    assert off[:, [N, CA, C]].max() < 1e-2
    glycine = np.array([letter == "G" for letter in read_structure(CRAMBIN).polymers["Axp"].letters])
    assert off[~glycine, CB].max() < 0.25 and off[~glycine, CB].mean() < 0.1


def test_residues_that_are_not_known_say_nothing(changed):
    """Their distances to all others, and to each other, fall into no bin, as before a first pass without a guess."""
    path = changed("loop.cif", keep=lambda residue, atom: residue.seqid.num not in (20, 21, 22) or atom == "O")
    positions = read_initial_guess(path, [LENGTH]).positions
    assert np.isfinite(positions).all()
    for atom in (CA, CB):
        bins = np.asarray(distance_bins(positions[:, atom], first=3.25, last=20.75, bins=15, axis=Axis()))
        unknown = np.isin(np.arange(LENGTH), (19, 20, 21))
        assert not bins[unknown].any() and not bins[:, unknown].any()
        others = bins[np.ix_(~unknown, ~unknown)].any(-1)
        close = np.linalg.norm(positions[:, None, atom] - positions[None, :, atom], axis=-1) <= 3.25
        np.testing.assert_array_equal(others, ~close[np.ix_(~unknown, ~unknown)])
        assert others.mean() > 0.9


def test_chains_follow_each_other_in_the_order_of_the_file(changed):
    path = changed("two.pdb", chains="BA")
    both = with_initial_guess(job(LENGTH, LENGTH), path).initial_guess
    assert both.positions.shape == (2 * LENGTH, 37, 3)
    np.testing.assert_array_equal(both.positions[:LENGTH, CA], both.positions[LENGTH:, CA])
    with pytest.raises(UserError, match=r"two.pdb: has 2 chains of 46, 46 residues, but .* one chain of 92 residues"):
        with_initial_guess(job(92), path)


def test_ready_made_features_say_how_long_their_chains_are(changed):
    path = changed("two.pdb", chains="AB")
    aatype = np.zeros(2 * LENGTH, int)
    complexed = {"aatype": aatype, "asym_id": np.repeat([1, 2], LENGTH)}
    ready = dataclasses.replace(job(), features=complexed)
    assert len(with_initial_guess(ready, path).initial_guess.positions) == 2 * LENGTH
    with pytest.raises(UserError, match="one chain of 92"):
        with_initial_guess(dataclasses.replace(ready, features={"aatype": aatype}), path)


def test_a_directory_has_a_file_for_each_job(changed, tmp_path):
    changed("design.pdb")
    changed("design2.cif")
    assert with_initial_guess(job(LENGTH), tmp_path).initial_guess.file == "design.pdb"
    assert with_initial_guess(job(LENGTH, name="design2"), tmp_path).initial_guess.file == "design2.cif"
    with pytest.raises(UserError, match=r"no structure named other; one is needed, such as other.pdb or other.cif"):
        with_initial_guess(job(LENGTH, name="other"), tmp_path)
    changed("design.cif")
    with pytest.raises(UserError, match=r"holds design.cif, design.pdb; one is needed"):
        with_initial_guess(job(LENGTH), tmp_path)


def test_what_cannot_be_used_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--initial-guess .*nowhere.pdb: no such file or directory"):
        check_initial_guess(tmp_path / "nowhere.pdb")
    (tmp_path / "empty.pdb").write_text("HEADER\n")
    with pytest.raises(UserError, match=r"--initial-guess .*empty.pdb: no atoms"):
        with_initial_guess(job(LENGTH), tmp_path / "empty.pdb")
    with pytest.raises(UserError, match="has one chain of 46 residues, but what is predicted has one chain of 45"):
        with_initial_guess(job(45), CRAMBIN)
    assert with_initial_guess(job(3), None).initial_guess is None
