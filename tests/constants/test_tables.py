"""The tables are consistent in themselves, and equal DeepMind's where those are installed."""

import numpy as np
import pytest

from fastfold_jax.constants import atoms, residues, rigid_groups, stereochemistry

_CODES = residues.RESTYPE_3[:20]


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("alphafold.common.residue_constants")


def test_atom_layouts_are_inverse_to_each_other():
    restype, column14 = np.nonzero(atoms.ATOM14_MASK)
    column37 = atoms.ATOM14_TO_ATOM37[restype, column14]
    assert np.array_equal(atoms.ATOM37_TO_ATOM14[restype, column37], column14)
    assert np.array_equal(np.argwhere(atoms.ATOM37_MASK), sorted(zip(restype, column37, strict=True)))
    assert not atoms.ATOM14_MASK[residues.UNKNOWN].any()


def test_swaps_are_involutions_within_a_residue():
    twice = np.take_along_axis(atoms.ATOM14_SWAP, atoms.ATOM14_SWAP, axis=1)
    assert np.array_equal(twice, np.tile(np.arange(14), (21, 1)))
    assert np.all(atoms.ATOM14_MASK[atoms.ATOM14_AMBIGUOUS > 0] == 1)


def test_letters():
    assert residues.RESTYPES == "ARNDCQEGHILKMFPSTWYV"
    assert [residues.MSA_LETTER_TO_INDEX[x] for x in "BZUOJX-"] == [3, 6, 4, 20, 20, 20, 21]
    assert [residues.SEQUENCE_LETTER_TO_INDEX[x] for x in "BZUOJXV"] == [20] * 6 + [19]


def test_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        atoms.ATOM14_MASK[0, 0] = 0


def test_default_frames_are_rigid_where_the_group_exists():
    exists = rigid_groups.GROUP_MASK.astype(bool).copy()
    exists[:20, :3] = True
    exists[20] = False
    rotations = rigid_groups.DEFAULT_FRAMES[..., :3, :3]
    identity = np.einsum("...ij,...kj->...ik", rotations, rotations)[exists]
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations[exists]), 1, atol=1e-6)
    assert not rigid_groups.DEFAULT_FRAMES[~exists].any()


def test_ideal_atoms_keep_literature_bond_lengths():
    """Atoms of one rigid group that are bonded lie as far apart as the literature says, within its tolerance."""
    checked = 0
    for restype, code in enumerate(_CODES):
        names = atoms.ATOM14_NAMES[restype]
        for bond in stereochemistry.bonds()[code]:
            i, j = map(names.index, bond.atoms)
            if rigid_groups.ATOM14_TO_GROUP[restype, i] == rigid_groups.ATOM14_TO_GROUP[restype, j]:
                distance = np.linalg.norm(np.subtract(*rigid_groups.ATOM14_POSITION[restype, [i, j]]))
                assert abs(distance - bond.length) < 5 * bond.deviation, (code, bond)
                checked += 1
    assert checked > 60


def test_residues_equal_deepminds(reference):
    assert list(residues.RESTYPES) == reference.restypes
    assert list(residues.RESTYPE_3) == reference.resnames
    assert residues.RESTYPE_3_INDEX == reference.resname_to_idx
    assert residues.RESTYPE_INDEX == reference.restype_order_with_x
    assert tuple(residues.HHBLITS_TO_RESTYPE) == reference.MAP_HHBLITS_AATYPE_TO_OUR_AATYPE
    through_hhblits = {
        letter: residues.HHBLITS_TO_RESTYPE[index] for letter, index in reference.HHBLITS_AA_TO_ID.items()
    }
    assert dict(residues.MSA_LETTER_TO_INDEX) == through_hhblits


def test_query_letters_equal_deepminds(reference):
    letters = "".join(residues.SEQUENCE_LETTER_TO_INDEX)
    one_hot = reference.sequence_to_onehot(letters, reference.restype_order_with_x, map_unknown_to_x=True)
    assert list(residues.SEQUENCE_LETTER_TO_INDEX.values()) == list(one_hot.argmax(-1))


def test_atoms_equal_deepminds(reference):
    assert list(atoms.ATOM37_NAMES) == reference.atom_types
    for code, names in zip(residues.RESTYPE_3, atoms.ATOM14_NAMES, strict=True):
        assert list(names) == reference.restype_name_to_atom14_names[code]
    np.testing.assert_array_equal(atoms.ATOM37_MASK, reference.STANDARD_ATOM_MASK)
    np.testing.assert_array_equal(atoms.ATOM14_MASK, reference.restype_atom14_mask)
    np.testing.assert_array_equal(atoms.CHI_ATOM37[:20], reference.chi_angles_atom_indices)
    np.testing.assert_array_equal(atoms.CHI_MASK[:20], reference.chi_angles_mask)
    np.testing.assert_array_equal(atoms.CHI_PI_PERIODIC, reference.chi_pi_periodic)
    assert reference.van_der_waals_radius == atoms.VAN_DER_WAALS_RADII


def test_atom_maps_equal_deepminds(reference):
    multimer = pytest.importorskip("alphafold.model.all_atom_multimer")
    np.testing.assert_array_equal(atoms.ATOM14_TO_ATOM37, multimer.RESTYPE_ATOM14_TO_ATOM37)
    np.testing.assert_array_equal(atoms.ATOM37_TO_ATOM14, multimer.RESTYPE_ATOM37_TO_ATOM14)
    np.testing.assert_array_equal(atoms.ATOM14_AMBIGUOUS, multimer.RESTYPE_ATOM14_IS_AMBIGUOUS)
    np.testing.assert_array_equal(np.eye(14)[atoms.ATOM14_SWAP], multimer.RENAMING_MATRICES)
    np.testing.assert_array_equal(rigid_groups.GROUP_BASE_ATOM37, multimer.RESTYPE_RIGIDGROUP_BASE_ATOM37_IDX)
    np.testing.assert_array_equal(rigid_groups.GROUP_MASK, multimer.RESTYPE_RIGIDGROUP_MASK)


def test_rigid_groups_equal_deepminds(reference):
    np.testing.assert_array_equal(rigid_groups.ATOM14_TO_GROUP, reference.restype_atom14_to_rigid_group)
    np.testing.assert_array_equal(rigid_groups.ATOM14_POSITION, reference.restype_atom14_rigid_group_positions)
    np.testing.assert_allclose(
        rigid_groups.DEFAULT_FRAMES, reference.restype_rigid_group_default_frame, rtol=0, atol=1e-7
    )


def test_stereochemistry_equals_deepminds(reference):
    bonds, virtual, angles = reference.load_stereo_chemical_props()
    for code in _CODES:
        for ours, theirs in ((stereochemistry.bonds(), bonds), (stereochemistry.virtual_bonds(), virtual)):
            assert [bond.atoms for bond in ours[code]] == [bond[:2] for bond in theirs[code]]
            np.testing.assert_allclose(
                [(bond.length, bond.deviation) for bond in ours[code]], [bond[2:] for bond in theirs[code]], rtol=1e-12
            )
        ours = [(angle.angle, angle.deviation) for angle in stereochemistry.angles()[code]]
        np.testing.assert_allclose(ours, [angle[3:] for angle in angles[code]], rtol=1e-12)
    assert stereochemistry.PEPTIDE_C_N_LENGTH == tuple(reference.between_res_bond_length_c_n)
    assert stereochemistry.PEPTIDE_C_N_DEVIATION == tuple(reference.between_res_bond_length_stddev_c_n)
    assert stereochemistry.PEPTIDE_CA_C_N_COS == tuple(reference.between_res_cos_angles_ca_c_n)
    assert stereochemistry.PEPTIDE_C_N_CA_COS == tuple(reference.between_res_cos_angles_c_n_ca)
    assert reference.ca_ca == stereochemistry.CA_CA_DISTANCE


def test_distance_bounds_equal_deepminds(reference):
    theirs = reference.make_atom14_dists_bounds(overlap_tolerance=1.3, bond_length_tolerance_factor=12.0)
    ours = stereochemistry.atom14_distance_bounds(overlap_tolerance=1.3, deviations=12.0)
    for our, key in zip(ours, ("lower_bound", "upper_bound", "stddev"), strict=True):
        np.testing.assert_allclose(our, theirs[key], rtol=1e-6)
