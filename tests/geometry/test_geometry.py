"""Rigid transformations, torsions, frames and atom layouts: laws of geometry, and equality with the installed peer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastfold_jax import geometry
from fastfold_jax.constants import atoms as atom_tables
from fastfold_jax.constants import rigid_groups
from fastfold_jax.geometry import Rigid

seeds = st.integers(0, 2**31 - 1)
quickly = settings(max_examples=10, deadline=None)


torsions_from_atom37 = jax.jit(geometry.torsions_from_atom37)
frames_from_atom37 = jax.jit(geometry.frames_from_atom37)
atom14_to_atom37 = jax.jit(geometry.atom14_to_atom37)


@jax.jit
def atoms_from_torsions(aatype, backbone, sin_cos):
    frames = geometry.frames_from_torsions(aatype, backbone, sin_cos)
    return geometry.atom14_to_atom37(geometry.atom14_positions(aatype, frames), aatype), frames


def random_rigid(rng: np.random.Generator, *shape: int, spread: float = 10.0) -> Rigid:
    rotation = geometry.rotation_from_quaternion(jnp.asarray(rng.normal(size=(*shape, 4)), jnp.float32))
    return Rigid(rotation=rotation, translation=jnp.asarray(rng.normal(size=(*shape, 3)) * spread, jnp.float32))


def random_structure(rng: np.random.Generator, num: int, *, unknown: bool = False):
    """A chain of ideal residues in random places with random torsions: aatype, atom37, mask."""
    aatype = jnp.asarray(rng.permutation(num) % (21 if unknown else 20))
    angles = rng.uniform(-np.pi, np.pi, size=(num, 7))
    sin_cos = jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1), jnp.float32)
    positions, _ = atoms_from_torsions(aatype, random_rigid(rng, num), sin_cos)
    return aatype, positions, jnp.asarray(atom_tables.ATOM37_MASK)[aatype], sin_cos


@quickly
@given(seeds)
def test_rigids_form_a_group(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (random_rigid(rng, 5) for _ in range(3))
    point = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4)  # noqa: E731
    close(a.compose(b).apply(point), a.apply(b.apply(point)))
    close(a.compose(b).compose(c).translation, a.compose(b.compose(c)).translation)
    close(a.invert().compose(a).rotation, np.broadcast_to(np.eye(3), (5, 3, 3)))
    close(a.invert_apply(a.apply(point)), point)
    close(a.invert().apply(point), a.invert_apply(point))
    close(jnp.linalg.det(a.rotation), np.ones(5))


@quickly
@given(seeds)
def test_points_define_their_frame(seed):
    rng = np.random.default_rng(seed)
    points = jnp.asarray(rng.normal(size=(3, 6, 3)) * 3, jnp.float32)
    frame = Rigid.from_points(*points)
    first, origin, third = (frame.invert_apply(point) for point in points)
    np.testing.assert_allclose(origin, 0, atol=1e-5)
    np.testing.assert_allclose(first[:, 1:], 0, atol=1e-4)
    assert np.all(first[:, 0] < 0)
    assert np.all(third[:, 1] > -1e-5)
    np.testing.assert_allclose(third[:, 2], 0, atol=1e-4)


@quickly
@given(seeds)
def test_quaternions_are_rotations(seed):
    q = jnp.asarray(np.random.default_rng(seed).normal(size=(7, 4)), jnp.float32)
    rotation = geometry.rotation_from_quaternion(q)
    np.testing.assert_allclose(
        rotation @ jnp.swapaxes(rotation, -1, -2), np.broadcast_to(np.eye(3), (7, 3, 3)), atol=1e-6
    )
    np.testing.assert_allclose(rotation, geometry.rotation_from_quaternion(-3 * q), atol=1e-6)


@quickly
@given(seeds)
def test_torsions_survive_the_way_over_atoms(seed):
    """Angles -> frames -> atoms -> angles is the identity for psi and chi; omega and phi need the neighbour's frame."""
    rng = np.random.default_rng(seed)
    aatype, positions, mask, sin_cos = random_structure(rng, 20)
    found = torsions_from_atom37(aatype, positions, mask)
    exists = np.array(jnp.asarray(atom_tables.CHI_MASK)[aatype])
    np.testing.assert_array_equal(found.mask[:, 3:], exists)
    ours, theirs = np.array(found.sin_cos)[:, 2:], np.array(sin_cos)[:, 2:]
    keep = np.concatenate([np.ones((20, 1)), exists], axis=1).astype(bool)
    # Ideal side chains are planar to 1e-2 Å only, and proline's CD was moved by hand.
    np.testing.assert_allclose(ours[keep], theirs[keep], atol=2e-2)


@quickly
@given(seeds)
def test_torsions_do_not_move_with_the_structure(seed):
    rng = np.random.default_rng(seed)
    aatype, positions, mask, _ = random_structure(rng, 20)
    moved = random_rigid(rng).apply(positions)
    still, turned = (torsions_from_atom37(aatype, x, mask) for x in (positions, moved))
    errors = np.abs(still.sin_cos - turned.sin_cos)[np.array(still.mask) > 0]
    # Residues stand in random places: where a backbone torsion's points are nearly in a line, rounding moves it.
    assert np.quantile(errors, 0.9) < 2e-5
    assert errors.max() < 1e-2


def test_layouts_round_trip():
    rng = np.random.default_rng(0)
    aatype, positions, mask, _ = random_structure(rng, 21, unknown=True)
    mask = mask * jnp.asarray(rng.integers(0, 2, mask.shape))
    atom14, mask14 = geometry.atom37_to_atom14(positions, mask, aatype)
    np.testing.assert_array_equal(atom14_to_atom37(atom14, aatype), positions * mask[..., None])
    assert mask14.sum() == mask.sum()


def test_alternative_frames_swap_ambiguous_atoms():
    """The alternative frames of a structure are the frames of the structure whose ambiguous atoms are swapped."""
    aatype, positions, mask, _ = random_structure(np.random.default_rng(1), 20)
    atom14, _ = geometry.atom37_to_atom14(positions, mask, aatype)
    swap = jnp.asarray(atom_tables.ATOM14_SWAP)[aatype]
    renamed = atom14_to_atom37(jnp.take_along_axis(atom14, swap[..., None], axis=1), aatype)
    expected = frames_from_atom37(aatype, renamed, mask)
    found = frames_from_atom37(aatype, positions, mask)
    known = np.array(found.mask)[..., None, None]
    np.testing.assert_allclose(found.alternative.rotation * known, expected.frames.rotation * known, atol=2e-2)


def test_frames_return_from_atoms():
    rng = np.random.default_rng(2)
    aatype = jnp.arange(20)
    angles = rng.uniform(-np.pi, np.pi, size=(20, 7))
    sin_cos = jnp.asarray(np.stack([np.sin(angles), np.cos(angles)], axis=-1), jnp.float32)
    positions, frames = atoms_from_torsions(aatype, random_rigid(rng, 20), sin_cos)
    found = frames_from_atom37(aatype, positions, jnp.asarray(atom_tables.ATOM37_MASK)[aatype])
    known = np.array(found.mask).astype(bool)
    np.testing.assert_array_equal(known, rigid_groups.GROUP_MASK[:20] == 1)
    np.testing.assert_allclose(found.frames.rotation[known], frames.rotation[known], atol=2e-2)
    np.testing.assert_allclose(found.frames.translation[known], frames.translation[known], atol=2e-2)


def test_gradients_are_finite_where_atoms_coincide():
    aatype, positions, mask, _ = random_structure(np.random.default_rng(3), 21, unknown=True)

    def loss(x):
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(torsions_from_atom37(aatype, x, mask)))

    for place in (positions, jnp.zeros_like(positions)):
        assert np.all(np.isfinite(jax.jit(jax.grad(loss))(place)))


# Equality with the peer.


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("alphafold.model.all_atom")


@pytest.mark.parametrize("fill", [False, True])
def test_torsions_equal_deepminds(peer, fill):
    rng = np.random.default_rng(4)
    aatype, positions, mask, _ = random_structure(rng, 42, unknown=True)
    mask = mask * jnp.asarray(rng.random(mask.shape) > 0.1)
    positions = jnp.stack([positions * mask[..., None], positions[::-1]])
    aatype, mask = jnp.stack([aatype, aatype[::-1] + 1]), jnp.stack([mask, mask[::-1]])
    ours = geometry.torsions_from_atom37(aatype, positions, mask, fill_undefined=fill)
    # Not compiled: angles of unknown atoms are rounding error, which is the same only operation by operation.
    theirs = peer.atom37_to_torsion_angles(aatype, positions, mask, placeholder_for_undefined=fill)
    np.testing.assert_allclose(ours.sin_cos, theirs["torsion_angles_sin_cos"], atol=2e-5)
    np.testing.assert_allclose(ours.alternative_sin_cos, theirs["alt_torsion_angles_sin_cos"], atol=2e-5)
    np.testing.assert_array_equal(ours.mask, theirs["torsion_angles_mask"])


def test_group_frames_equal_deepminds(peer):
    rng = np.random.default_rng(5)
    aatype, positions, mask, _ = random_structure(rng, 21, unknown=True)
    mask = mask * jnp.asarray(rng.random(mask.shape) > 0.1)
    ours = geometry.frames_from_atom37(aatype, positions, mask)
    theirs = peer.atom37_to_frames(aatype, positions, mask)
    flat = lambda x: np.concatenate([x.rotation.reshape(21, 8, 9), x.translation], -1)  # noqa: E731
    np.testing.assert_allclose(flat(ours.frames), theirs["rigidgroups_gt_frames"], atol=1e-5)
    np.testing.assert_allclose(flat(ours.alternative), theirs["rigidgroups_alt_gt_frames"], atol=1e-5)
    np.testing.assert_array_equal(ours.mask, theirs["rigidgroups_gt_exists"])


def test_atoms_from_torsions_equal_deepminds(peer):
    r3 = pytest.importorskip("alphafold.model.r3")
    rng = np.random.default_rng(6)
    aatype = jnp.arange(21)
    backbone = random_rigid(rng, 21)
    sin_cos = jnp.asarray(rng.normal(size=(21, 7, 2)), jnp.float32)
    their_backbone = r3.Rigids(r3.rots_from_tensor3x3(backbone.rotation), r3.vecs_from_tensor(backbone.translation))

    def ours(x):
        frames = geometry.frames_from_torsions(aatype, backbone, x)
        return geometry.atom14_positions(aatype, frames), frames

    def theirs(x):
        frames = peer.torsion_angles_to_frames(aatype, their_backbone, x)
        return r3.vecs_to_tensor(peer.frames_and_literature_positions_to_atom14_pos(aatype, frames)), frames

    (our_atoms, our_frames), (their_atoms, their_frames) = jax.jit(ours)(sin_cos), jax.jit(theirs)(sin_cos)
    np.testing.assert_allclose(our_atoms, their_atoms, rtol=1e-5, atol=1e-5)
    their_flat = r3.rigids_to_tensor_flat12(their_frames)
    np.testing.assert_allclose(our_frames.rotation.reshape(21, 8, 9), their_flat[..., :9], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(our_frames.translation, their_flat[..., 9:], rtol=1e-5, atol=1e-5)
    weights = jnp.asarray(rng.normal(size=(21, 14, 3)), jnp.float32)
    gradients = [jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x)[0] * weights)))(sin_cos) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-4)


def test_pseudo_beta_equals_deepminds():
    modules = pytest.importorskip("alphafold.model.modules")
    rng = np.random.default_rng(7)
    aatype, positions, mask, _ = random_structure(rng, 21, unknown=True)
    for our, their in zip(
        geometry.pseudo_beta(aatype, positions, mask), modules.pseudo_beta_fn(aatype, positions, mask), strict=True
    ):
        np.testing.assert_array_equal(our, their)
