"""Losses of complexes by hand-made cases: centres of mass, matching of equal chains; bonds do not cross chains."""

import jax
import jax.numpy as jnp
import near_native
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels
from fastfold_jax.losses.center_of_mass import center_of_mass_loss
from fastfold_jax.losses.permutation import match_copies
from fastfold_jax.losses.violations import bond_violations


def test_center_of_mass_of_two_chains():
    """Centres 10 Å apart that should be 20 Å apart: (10 - 20 + 4)² in units of (20 Å)²."""
    chain = np.array([[-1.0, 0, 0], [1.0, 0, 0]])
    true = np.concatenate([chain, _shift(chain, 20.0, 0, 0)])
    predicted = np.concatenate([chain, _shift(chain, 0, 10.0, 0)])
    asym_id = jnp.array([1, 1, 2, 2])
    mask = jnp.ones(4)

    def loss(points, mask=mask):
        return center_of_mass_loss(jnp.asarray(points, jnp.float32), jnp.asarray(true, jnp.float32), mask, asym_id)

    assert loss(predicted) == pytest.approx(36.0 / 400.0, rel=1e-5)
    assert loss(true) == 0.0
    # Further apart than they should be, or nearer by less than 4 Å, costs nothing.
    assert loss(np.concatenate([chain, _shift(chain, 40.0, 0, 0)])) == 0.0
    assert loss(np.concatenate([chain, _shift(chain, 16.5, 0, 0)])) == 0.0
    # An unknown residue does not move a centre: 11 Å against 21 Å.
    unknown = loss(predicted, jnp.array([0.0, 1, 1, 1]))
    centers = np.linalg.norm(predicted[2:].mean(0) - predicted[1]), np.linalg.norm(true[2:].mean(0) - true[1])
    assert unknown == pytest.approx((centers[0] - centers[1] + 4) ** 2 / 400, rel=1e-4)
    # Only the distance counts, so the gradient pushes the chains apart.
    gradient = jax.grad(lambda x: loss(x))(jnp.asarray(predicted, jnp.float32))
    np.testing.assert_allclose(gradient[:2].sum(0), -gradient[2:].sum(0), atol=1e-6)
    assert gradient[2, 1] < 0


def test_center_of_mass_counts_each_pair_of_chains_once():
    """Three chains of unequal length, one pair too near: its square over three pairs."""
    true = np.array([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [30.0, 0, 0], [0, 40.0, 0]])
    predicted = true.copy()
    predicted[3] = [16.0, 0, 0]  # 14 Å too near the first chain; to the third 43.08 instead of 50 Å
    asym_id = jnp.array([1, 1, 1, 2, 3])
    third = np.hypot(16, 40) - np.hypot(30, 40) + 4
    expected = ((-14 + 4) ** 2 + min(third, 0) ** 2) / 400 / 3
    found = center_of_mass_loss(
        jnp.asarray(predicted, jnp.float32), jnp.asarray(true, jnp.float32), jnp.ones(5), asym_id
    )
    assert found == pytest.approx(expected, rel=1e-4)


def _features(asym_id, entity_id, sym_id) -> Features:
    num_res = len(asym_id)
    empty = {name: np.zeros(0) for name in Features.__dataclass_fields__}
    return Features(
        **{
            **empty,
            "asym_id": jnp.asarray(asym_id),
            "entity_id": jnp.asarray(entity_id),
            "sym_id": jnp.asarray(sym_id),
            "seq_mask": jnp.ones(num_res),
        }
    )


def _labels(copies: np.ndarray, mask: np.ndarray | None = None) -> Labels:
    """Labels whose every atom lies at its residue's Cα; copies is [K, N, 3]."""
    positions = np.repeat(copies[:, :, None], 37, axis=2).astype(np.float32)
    known = np.ones(copies.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
    return Labels(
        atom_positions=jnp.asarray(positions * known[..., None, None]),
        atom_mask=jnp.asarray(np.repeat(known[..., None], 37, axis=2)),
        resolution=np.float32(2),
        use_clamped_fape=np.float32(1),
        true_msa=np.zeros((1, copies.shape[1]), np.int8),
        bert_mask=np.zeros((1, copies.shape[1]), np.float32),
    )


def _helix(length: int, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).standard_normal((length, 3)) * 2.2, axis=0)


def _shift(points: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return points + np.array([x, y, z])


def _turn(points: np.ndarray) -> np.ndarray:
    """Another orientation and place, as a prediction has."""
    return _shift(Rotation.from_rotvec([0.3, -1.2, 2.0]).apply(points), 5.0, -20.0, 3.0)


match = jax.jit(match_copies)


def test_two_equal_chains_predicted_in_the_other_order():
    chain = _helix(8, 0)
    first, second = chain, _shift(chain[:, [1, 0, 2]] * [1, -1, 1], 25.0, 0, 0)
    copies = np.stack([np.concatenate([first, first]), np.concatenate([second, second])])
    features = _features([1] * 8 + [2] * 8, [1] * 16, [1] * 8 + [2] * 8)
    swapped = _turn(np.concatenate([second, first]))
    positions, mask = match(features, _labels(copies), jnp.asarray(swapped, jnp.float32))
    np.testing.assert_allclose(positions[:, 1], np.concatenate([second, first]), atol=1e-4)
    np.testing.assert_array_equal(mask, 1)
    kept = _turn(np.concatenate([first, second]))
    positions, _ = match(features, _labels(copies), jnp.asarray(kept, jnp.float32))
    np.testing.assert_allclose(positions[:, 1], np.concatenate([first, second]), atol=1e-4)


def test_three_copies_around_an_anchor_of_which_there_is_one():
    """A2B in a crop: the single chain is the anchor, the equal ones are matched by their centres."""
    anchor, chain = _helix(10, 1), _helix(6, 2)
    places = np.array([[30.0, 0, 0], [-15.0, 26.0, 0], [-15.0, -26.0, 0]])
    blank = np.zeros((10, 3))
    around = [np.concatenate([anchor if copy == 0 else blank, *[chain + places[copy]] * 3]) for copy in range(3)]
    mask = np.ones((3, 28))
    mask[1:, :10] = 0  # the anchor has no further copies
    features = _features([1] * 10 + [2] * 6 + [3] * 6 + [4] * 6, [1] * 10 + [2] * 18, [1] * 16 + [2] * 6 + [3] * 6)
    order = [2, 0, 1]
    predicted = _turn(np.concatenate([anchor, *[chain + places[copy] for copy in order]]))
    positions, known = match(features, _labels(np.stack(around), mask), jnp.asarray(predicted, jnp.float32))
    expected = np.concatenate([anchor, *[chain + places[copy] for copy in order]])
    np.testing.assert_allclose(positions[:, 1], expected, atol=1e-4)
    np.testing.assert_array_equal(known, 1)


def test_a_mirrored_prediction_is_turned_and_not_reflected():
    """An anchor that is nearly flat and predicted as its mirror image: a reflection would exchange the chains beside
    it, one above and one below."""
    anchor, chain = _helix(12, 5) * [1, 1, 0.05], _helix(6, 6) * 0.3
    above, below = _shift(chain, 0, 0, 20.0), _shift(chain, 0, 0, -20.0)
    blank = np.zeros((12, 3))
    copies = np.stack([np.concatenate([anchor, above, above]), np.concatenate([blank, below, below])])
    mask = np.ones((2, 24))
    mask[1, :12] = 0
    features = _features([1] * 12 + [2] * 6 + [3] * 6, [1] * 12 + [2] * 12, [1] * 18 + [2] * 6)
    noise = np.random.default_rng(7).normal(0, 0.1, (24, 3))
    predicted = _turn(np.concatenate([anchor * [1, 1, -1], above, below]) + noise)
    positions, _ = match(features, _labels(copies, mask), jnp.asarray(predicted, jnp.float32))
    np.testing.assert_allclose(positions[:, 1], np.concatenate([anchor, above, below]), atol=1e-4)


def test_the_anchor_is_of_the_entity_with_fewest_copies():
    """A2B: one of the equal chains is turned so that, superposed, it fits the other's copy. The single chain, although
    shorter, is not fooled."""
    chain, single = _helix(10, 8) * 0.3, _helix(6, 9) * 0.3
    chain, single = chain - chain.mean(0), single - single.mean(0)
    left, right = _shift(chain, -20.0, 0, 0), _shift(chain, 20.0, 0, 0)
    blank = np.zeros((6, 3))
    copies = np.stack([np.concatenate([left, left, single]), np.concatenate([right, right, blank])])
    mask = np.ones((2, 26))
    mask[1, 20:] = 0
    features = _features([1] * 10 + [2] * 10 + [3] * 6, [1] * 20 + [2] * 6, [1] * 10 + [2] * 10 + [1] * 6)
    half_turned = _shift(chain * [-1, -1, 1], -20.0, 0, 0)
    predicted = _turn(np.concatenate([half_turned, right, single]))
    positions, _ = match(features, _labels(copies, mask), jnp.asarray(predicted, jnp.float32))
    np.testing.assert_allclose(positions[:, 1], np.concatenate([left, right, single]), atol=1e-4)


@pytest.mark.parametrize("known", [0, 2])
def test_a_chain_with_fewer_than_three_known_residues_is_no_anchor(known):
    """They fix no superposition: whichever way the prediction lies, equal chains keep their places."""
    chain, single = _helix(10, 8) * 0.3, _helix(6, 9) * 0.3
    left, right = _shift(chain, -20.0, 0, 0), _shift(chain, 20.0, 0, 0)
    copies = np.stack([np.concatenate([left, left, single]), np.concatenate([right, right, single])])
    mask = np.ones((2, 26))
    mask[1, 20:] = mask[0, 20 + known :] = 0
    features = _features([1] * 10 + [2] * 10 + [3] * 6, [1] * 20 + [2] * 6, [1] * 10 + [2] * 10 + [1] * 6)
    for axis in ([3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [1.0, 1.0, 1.0]):
        predicted = Rotation.from_rotvec(axis).apply(np.concatenate([right, left, single]))
        positions, _ = match(features, _labels(copies, mask), jnp.asarray(predicted, jnp.float32))
        np.testing.assert_allclose(positions[:20, 1], np.concatenate([right, left]), atol=1e-4)


def test_a_copy_is_given_once():
    """Two predicted chains on top of each other cannot both be compared with the same copy."""
    chain = _helix(8, 3)
    far = _shift(chain, 40.0, 0, 0)
    copies = np.stack([np.concatenate([chain, chain]), np.concatenate([far, far])])
    features = _features([1] * 8 + [2] * 8, [1] * 16, [1] * 8 + [2] * 8)
    predicted = np.concatenate([chain, chain + 0.1])
    positions, _ = match(features, _labels(copies), jnp.asarray(predicted, jnp.float32))
    found = sorted(np.asarray(positions[[0, 8], 1]).tolist())
    np.testing.assert_allclose(found, sorted([chain[0].tolist(), far[0].tolist()]), atol=1e-4)


def test_one_chain_is_compared_with_itself():
    chain = _helix(5, 4)
    labels = _labels(chain[None])
    positions, mask = match(_features([1] * 5, [1] * 5, [1] * 5), labels, jnp.zeros((5, 3)))
    np.testing.assert_array_equal(positions, labels.atom_positions[0])
    np.testing.assert_array_equal(mask, labels.atom_mask[0])


def test_bonds_do_not_cross_chains():
    """Where a chain ends with number 3 and the next begins with 4, no bond is missing between them."""
    native = near_native.native()
    positions = jnp.asarray(near_native.predictions(native, 0.0)["atom14"][:6])
    positions = positions.at[3:].add(50.0)
    exists, aatype, index = (jnp.asarray(x[:6]) for x in (native.exists, native.aatype, native.residue_index))
    of_chains = jax.jit(lambda asym_id: bond_violations(positions, exists, (aatype, index, asym_id), 12.0))
    broken, apart = of_chains(jnp.ones(6, int)), of_chains(jnp.array([1, 1, 1, 2, 2, 2]))
    assert broken.c_n > 1.0 and broken.per_residue[2] == 1
    assert apart.c_n == 0.0 and not apart.per_residue.any()


def test_an_unknown_chain_keeps_its_own_copy():
    """The second of two equal chains comes first in the crop, and leaves the other's copy to the other."""
    single, chain = _helix(10, 1), _helix(6, 2)
    first, second = _shift(chain, 30.0, 0, 0), _shift(chain, -30.0, 0, 0)
    blank = np.zeros((10, 3))
    copies = np.stack([np.concatenate([single, first, first]), np.concatenate([blank, second, second])])
    mask = np.ones((2, 22))
    mask[1, :10] = mask[:, 10:16] = 0
    features = _features([1] * 10 + [3] * 6 + [2] * 6, [1] * 10 + [2] * 12, [1] * 10 + [2] * 6 + [1] * 6)
    predicted = _turn(np.concatenate([single, second, first]))
    positions, _ = match(features, _labels(copies, mask), jnp.asarray(predicted, jnp.float32))
    np.testing.assert_allclose(positions[16:, 1], first, atol=1e-4)
