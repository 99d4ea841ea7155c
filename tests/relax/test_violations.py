"""Violations: against DeepMind's metrics on real predictions, and in made-up structures where each kind is known."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from fastfold_jax.inference.relax_violations import Atoms, find_violations, violations_of

STRUCTURES = Path(__file__).parents[1] / "data" / "structures"

FILES = ["pdb/with_violations.pdb", "pdb/multiple_disulfides_target.pdb"]
MORE = [  # each takes 10 s, in which the reference compiles
    "pdb/with_violations_casp14.pdb",
    "pdb/model_output.pdb",
    "pdb/ERR550519_2213899_unrelaxed_model_1.pdb",
    "real_outputs/6KWC_1_model_1_ptm_unrelaxed.pdb",
]


def reference(path):
    """DeepMind's own, as its relaxation calls it; without OpenMM, which it imports but this does not need."""
    minimize = pytest.importorskip("alphafold.relax.amber_minimize")
    protein = pytest.importorskip("alphafold.common.protein")
    return minimize.find_violations(protein.from_pdb_string(path.read_text()))


@pytest.mark.parametrize("name", [*FILES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_metrics_equal_the_reference(shared_data, name):
    path = shared_data / name
    violations, metrics = reference(path)
    made = find_violations(gemmi.read_structure(str(path)))
    np.testing.assert_array_equal(made.per_residue, violations["total_per_residue_violations_mask"] > 0)
    for ours, theirs in (
        (made.bonds, "violations_between_residue_bond"),
        (made.clashes, "violations_between_residue_clash"),
        (made.within, "violations_within_residue"),
        (made.extreme_ca_ca, "violations_extreme_ca_ca_distance"),
    ):
        assert ours == pytest.approx(float(metrics[theirs]), abs=1e-5)
    if "with_violations" in name or "disulfides" in name:
        assert made.count > 5


@pytest.mark.parametrize("shift", [0.02, 0.2, 0.6])
def test_metrics_of_shaken_structures_equal_the_reference(shared_data, tmp_path, shift):
    structure = gemmi.read_structure(str(shared_data / "pdb" / "multiple_disulfides_target.pdb"))
    rng = np.random.default_rng(0)
    for cra in structure[0].all():
        cra.atom.pos += gemmi.Position(*rng.normal(0, shift, 3))
    path = tmp_path / "shaken.pdb"
    structure.write_pdb(str(path))
    violations, metrics = reference(path)
    made = find_violations(gemmi.read_structure(str(path)))
    np.testing.assert_array_equal(made.per_residue, violations["total_per_residue_violations_mask"] > 0)
    assert made.within == pytest.approx(float(metrics["violations_within_residue"]), abs=1e-5)


def two_chains(distance: float) -> gemmi.Structure:
    """The same chain twice, with equal numbers, so far apart."""
    structure = gemmi.read_structure(str(STRUCTURES / "1l2y.pdb"))
    copy = structure[0][0].clone()
    copy.name = "B"
    for residue in copy:
        for atom in residue:
            atom.pos += gemmi.Position(distance, 0, 0)
    structure[0].add_chain(copy)
    return structure


def test_clashes_between_residues_of_equal_number_in_two_chains():
    alone = find_violations(two_chains(1000.0))
    together = find_violations(two_chains(0.4))
    n = len(alone.per_residue) // 2
    np.testing.assert_array_equal(alone.per_residue[:n], alone.per_residue[n:])
    assert together.clashes == 1.0


def test_chains_are_not_bonded_to_each_other():
    structure = two_chains(1000.0)
    for number, residue in enumerate(structure[0][1], start=len(structure[0][0]) + 1):
        residue.seqid.num = number
    assert find_violations(structure).extreme_ca_ca == 0


def test_atoms_that_are_missing_violate_nothing():
    structure = gemmi.read_structure(str(STRUCTURES / "1l2y.pdb"))
    atoms = Atoms.of(structure)
    for column in range(14):
        mask = atoms.mask.copy()
        mask[:, column] = False
        some = Atoms(aatype=atoms.aatype, positions=atoms.positions, mask=mask, chain=atoms.chain, number=atoms.number)
        assert violations_of(some).count == 0
    none = Atoms(
        aatype=atoms.aatype,
        positions=atoms.positions,
        mask=np.zeros_like(atoms.mask),
        chain=atoms.chain,
        number=atoms.number,
    )
    nothing = violations_of(none)
    assert nothing.count == 0 and nothing.bonds == nothing.clashes == nothing.within == nothing.extreme_ca_ca == 0
