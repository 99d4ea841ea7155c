"""Confidence measures against AlphaFold's own outputs and functions, and what must hold of them whatever the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastfold_jax.model import confidence
from parallel.axis import Axis

BREAKS = jnp.linspace(0.0, 31.0, 63, dtype=jnp.float32)
DISTOGRAM_EDGES = jnp.linspace(2.3125, 21.6875, 63, dtype=np.float32)


def pair_logits(num_res: int, seed: int = 0, spread: float = 3.0) -> jax.Array:
    return spread * jnp.asarray(np.random.default_rng(seed).standard_normal((num_res, num_res, 64), dtype=np.float32))


@pytest.mark.parametrize("name", ["5AWL_1", "6A5J"])
def test_agrees_with_alphafold_outputs_of_the_released_weights(shared_data, name):
    with np.load(shared_data / "real_outputs" / f"{name}.npz") as file:
        recorded = jax.tree.map(jnp.asarray, dict(file))
    plddt = confidence.predicted_lddt(recorded["predicted_lddt/logits"])
    mask = jnp.ones(len(plddt))
    np.testing.assert_allclose(plddt, recorded["plddt"], rtol=1e-5)
    np.testing.assert_allclose(confidence.mean_predicted_lddt(plddt, mask), recorded["mean_plddt"], rtol=1e-5)
    # The file keeps the aligned error's probabilities; their logarithms are logits of the same distribution.
    logits = jnp.log(jnp.maximum(recorded["aligned_confidence_probs"], 1e-30))
    pae = confidence.predicted_aligned_error(logits, BREAKS)
    np.testing.assert_allclose(pae, recorded["predicted_aligned_error"], rtol=1e-5)
    largest = confidence.error_bin_centers(BREAKS)[-1]
    np.testing.assert_allclose(largest, recorded["max_predicted_aligned_error"], rtol=1e-6)
    ptm = confidence.predicted_tm_score(logits, BREAKS, mask)
    np.testing.assert_allclose(ptm, recorded["ptm"], rtol=1e-5)


@pytest.mark.parametrize("num_res", [7, 19, 40])
def test_agrees_with_the_reference_functions(num_res):
    reference = pytest.importorskip("alphafold.common.confidence")
    rng = np.random.default_rng(num_res)
    logits = pair_logits(num_res, seed=num_res)
    mask = jnp.asarray(rng.random(num_res) < 0.8, jnp.float32)
    asym_id = jnp.sort(jnp.asarray(rng.integers(1, 4, num_res), jnp.int32))
    for chains in (None, asym_id):
        expected = reference.predicted_tm_score(logits, BREAKS, mask, asym_id=chains)
        np.testing.assert_allclose(confidence.predicted_tm_score(logits, BREAKS, mask, chains), expected, rtol=1e-5)
    expected = reference.compute_predicted_aligned_error(logits, BREAKS)["predicted_aligned_error"]
    np.testing.assert_allclose(confidence.predicted_aligned_error(logits, BREAKS), expected, rtol=1e-5)
    plddt_logits = jnp.asarray(rng.standard_normal((num_res, 50), dtype=np.float32))
    expected = reference.compute_plddt(plddt_logits)
    np.testing.assert_allclose(confidence.predicted_lddt(plddt_logits), expected, rtol=1e-5)
    before, after = jnp.asarray(rng.standard_normal((2, num_res, 37, 3), dtype=np.float32))
    expected = reference.compute_tol(before, after, mask)
    np.testing.assert_allclose(confidence.ca_distance_change(before, after, mask), expected, rtol=1e-5)


@pytest.mark.parametrize(("num_res", "padding"), [(2, 14), (15, 1), (24, 8)])
def test_padding_changes_nothing(num_res, padding):
    rng = np.random.default_rng(num_res)
    logits = pair_logits(num_res + padding)
    positions = 10 * jnp.asarray(rng.standard_normal((2, num_res + padding, 37, 3), dtype=np.float32))
    mask = jnp.arange(num_res + padding) < num_res
    asym_id = jnp.where(mask, 1 + jnp.arange(num_res + padding) % 2, 0)
    weights = mask.astype(jnp.float32)
    real = slice(0, num_res)

    @jax.jit
    def measures(logits, weights, asym_id, positions):
        plddt = confidence.predicted_lddt(logits[0])
        return (
            confidence.predicted_tm_score(logits, BREAKS, weights),
            confidence.predicted_tm_score(logits, BREAKS, weights, asym_id),
            confidence.mean_predicted_lddt(plddt, weights),
            confidence.ca_distance_change(*positions, weights),
        )

    padded = measures(logits, weights, asym_id, positions)
    alone = measures(logits[real, real], weights[real], asym_id[real], positions[:, real])
    np.testing.assert_allclose(padded, alone, rtol=1e-5)


def test_order_and_names_of_chains_change_nothing():
    logits, weights = pair_logits(30), jnp.ones(30)
    asym_id = jnp.repeat(jnp.array([1, 2, 3]), 10)
    order = np.concatenate([np.arange(20, 30), np.arange(0, 20)])
    renamed = jnp.array([0, 3, 1, 2])[asym_id]
    value = confidence.predicted_tm_score(logits, BREAKS, weights, asym_id)
    permuted = confidence.predicted_tm_score(logits[order][:, order], BREAKS, weights, renamed[order])
    np.testing.assert_allclose(value, permuted, rtol=1e-6)


def test_one_chain_has_no_interface():
    one = jnp.ones(8, jnp.int32)
    assert confidence.predicted_tm_score(pair_logits(8), BREAKS, jnp.ones(8), one) == 0


def test_certain_predictions_reach_the_ends_of_the_scales():
    certain = jnp.where(jnp.arange(64) == 0, 50.0, 0.0) * jnp.ones((40, 40, 1))
    ptm = confidence.predicted_tm_score(certain, BREAKS, jnp.ones(40))
    assert 0.98 < ptm <= 1
    hopeless = jnp.flip(certain, -1)
    assert confidence.predicted_tm_score(hopeless, BREAKS, jnp.ones(40)) < 0.02
    assert confidence.predicted_aligned_error(hopeless, BREAKS).max() == confidence.error_bin_centers(BREAKS)[-1]
    assert confidence.complex_ranking_confidence(jnp.float32(0.5), jnp.float32(1.0)) == pytest.approx(0.9)


@pytest.mark.parametrize(("bin_index", "expected"), [(0, 1.0), (18, 1.0), (19, 0.0), (63, 0.0)])
def test_contacts_are_the_bins_below_eight_angstrom(bin_index, expected):
    logits = jnp.where(jnp.arange(64) == bin_index, 100.0, 0.0)[None, None]
    np.testing.assert_allclose(confidence.contact_probability(logits, DISTOGRAM_EDGES), [[expected]], atol=1e-6)


def test_rigid_motion_is_no_change():
    rng = np.random.default_rng(0)
    positions = 10 * rng.standard_normal((12, 37, 3))
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    moved = jnp.asarray(positions @ rotation + [5.0, -3.0, 11.0], jnp.float32)
    positions = jnp.asarray(positions, jnp.float32)
    assert confidence.ca_distance_change(positions, moved, jnp.ones(12)) < 1e-3
    assert confidence.ca_distance_change(jnp.zeros_like(positions), positions, jnp.ones(12)) > 1


def test_extreme_logits_stay_finite():
    logits = jnp.array([[[1e30] + [-1e30] * 63]])
    assert confidence.predicted_aligned_error(logits, BREAKS) == pytest.approx(0.25)


def test_rows_on_several_devices_give_the_same_scores():
    axis, num_res = Axis("dap", 3), 12
    logits, weights = pair_logits(num_res), (jnp.arange(num_res) < 10).astype(jnp.float32)
    asym_id = jnp.repeat(jnp.array([1, 2]), 6)

    def score(rows):
        return confidence.predicted_tm_score(rows, BREAKS, weights, asym_id, axis)

    # `vmap` with an axis name carries out the collectives, with no device but this one.
    scores = jax.vmap(score, axis_name=axis.name)(logits.reshape(3, 4, num_res, 64))
    np.testing.assert_allclose(scores, confidence.predicted_tm_score(logits, BREAKS, weights, asym_id), rtol=1e-6)
