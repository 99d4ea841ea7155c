"""Scores of structures: perfect ones, moved ones, and cases worked out by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fastfold_jax.geometry.superposition import superposition
from fastfold_jax.training.structure_metrics import structure_metrics, tm_scale


def walk(length: int, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).standard_normal((length, 3))
    return np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


def everywhere(points: np.ndarray) -> np.ndarray:
    return np.ones(len(points), bool)


def test_a_moved_copy_is_perfect():
    true = walk(40)
    predicted = Rotation.from_rotvec([0.5, 2.0, -1.0]).apply(true) + np.array([10.0, 20.0, -30.0])
    scores = structure_metrics(predicted, true, everywhere(true))
    for name in ("lddt_ca", "gdt_ts", "gdt_ha", "tm_score"):
        assert scores[name] == pytest.approx(1.0), name
    assert scores["drmsd"] == pytest.approx(0.0, abs=1e-9)


def test_a_mirror_image_has_the_distances_but_not_the_shape():
    true = walk(60)
    scores = structure_metrics(true * [1, 1, -1], true, everywhere(true))
    assert scores["lddt_ca"] == pytest.approx(1.0) and scores["drmsd"] == pytest.approx(0.0, abs=1e-9)
    assert scores["tm_score"] < 0.6 and scores["gdt_ts"] < 0.7


def test_a_domain_in_place_and_one_far_away():
    """Of 100 residues 70 fit exactly and 30 are 1,000 Å off: TM and GDT are 0.7."""
    true = walk(100)
    predicted = true.copy()
    predicted[70:] += 1000.0
    scores = structure_metrics(predicted, true, everywhere(true))
    assert scores["tm_score"] == pytest.approx(0.7, abs=1e-3)
    assert scores["gdt_ts"] == scores["gdt_ha"] == pytest.approx(0.7)


def test_thresholds_of_gdt():
    """Every fourth atom is off by 0.7, 1.5, 3 or 6 Å along alternating axes."""
    true = walk(200, seed=3)
    offsets = np.array([0.7, 1.5, 3.0, 6.0])
    predicted = true.copy()
    for index in range(200):
        sign = 1 if (index // 4) % 2 else -1
        predicted[index, (index // 8) % 3] += sign * offsets[index % 4]
    scores = structure_metrics(predicted, true, everywhere(true))
    # Within 1, 2, 4 and 8 Å: a quarter, a half, three quarters, all; the best superposition can only find more.
    assert scores["gdt_ts"] == pytest.approx(0.625, abs=0.03)
    assert scores["gdt_ha"] == pytest.approx(0.375, abs=0.03)
    assert scores["tm_score"] > np.mean(1 / (1 + np.square(np.tile(offsets, 50) / tm_scale(200)))) - 1e-6


def test_unknown_residues_do_not_count():
    true = walk(30)
    predicted = true.copy()
    predicted[5] += 50.0
    mask = everywhere(true)
    mask[5] = False
    assert structure_metrics(predicted, true, mask)["tm_score"] == pytest.approx(1.0)
    assert structure_metrics(predicted, true, np.zeros(30, bool)) == {}


def test_lddt_by_hand():
    """Three atoms in a row at 4 Å; the last moves by 1.5 Å: its two distances keep 2 of 4 thresholds."""
    true = np.array([[0.0, 0, 0], [4.0, 0, 0], [8.0, 0, 0]])
    predicted = np.array([[0.0, 0, 0], [4.0, 0, 0], [9.5, 0, 0]])
    scores = structure_metrics(predicted, true, everywhere(true))
    assert scores["lddt_ca"] == pytest.approx(np.mean([0.75, 0.75, 0.5]))
    assert scores["drmsd"] == pytest.approx(np.sqrt((1.5**2 + 1.5**2) / 3))


def test_superposition_is_a_rotation():
    points, target = walk(10, 1), walk(10, 2)
    rotation, _ = superposition(points, target)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
