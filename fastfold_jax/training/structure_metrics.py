"""How near a predicted structure is to the true one: lDDT-Cα, dRMSD, GDT-TS, GDT-HA, TM-score. NumPy, float64."""

import numpy as np
from jaxtyping import Bool, Float

from fastfold_jax.geometry.superposition import Points, superposition

_LDDT_CUTOFF = 15.0  # Å
_GDT_TS = (1.0, 2.0, 4.0, 8.0)  # Å
_GDT_HA = (0.5, 1.0, 2.0, 4.0)
_ROUNDS = 20  # of fitting again on what is near
_FEWEST = 4  # points that a superposition is begun with


def structure_metrics(predicted: Points, true: Points, mask: Bool[np.ndarray, "n"]) -> dict[str, float]:
    """All scores of the Cα atoms (Å) that are known, 0..1, and dRMSD in Å; none if fewer than three are known."""
    predicted, true = np.asarray(predicted, np.float64)[mask], np.asarray(true, np.float64)[mask]
    if len(true) < 3:
        return {}
    ours, theirs = _distances(predicted), _distances(true)
    tm, ts, ha = _superposition_scores(predicted, true)
    return {
        "lddt_ca": _lddt(ours, theirs),
        "drmsd": float(np.sqrt(np.mean(np.square(ours - theirs)[~np.eye(len(true), dtype=bool)]))),
        "gdt_ts": ts,
        "gdt_ha": ha,
        "tm_score": tm,
    }


def _distances(points: Points) -> Float[np.ndarray, "n n"]:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def _lddt(ours: Float[np.ndarray, "n n"], theirs: Float[np.ndarray, "n n"]) -> float:
    """Mean over residues of the share of distances below 15 Å that are kept (Mariani et al. 2013)."""
    counts = (theirs < _LDDT_CUTOFF) & ~np.eye(len(theirs), dtype=bool)
    error = np.abs(ours - theirs)
    kept = np.mean([error < threshold for threshold in (0.5, 1.0, 2.0, 4.0)], axis=0)
    neighbours = counts.sum(axis=1)
    scored = neighbours > 0
    return float(np.mean((kept * counts).sum(axis=1)[scored] / neighbours[scored])) if scored.any() else 1.0


def tm_scale(length: int) -> float:
    """d0 (Å) of the TM-score (Zhang & Skolnick 2004, equation 5), at least 0.5 as in their program."""
    return max(1.24 * np.cbrt(length - 15.0) - 1.8, 0.5) if length > 15 else 0.5


def _superposition_scores(predicted: Points, true: Points) -> tuple[float, float, float]:
    """TM-score, GDT-TS and GDT-HA, each under the best superposition found for it.

    As in the programs TM-score and LGA: begin with fragments of the chain of every length L, L/2, L/4, ..., fit, then
    fit again on whatever lies near, until that no longer changes.
    """
    length = len(true)
    scale = tm_scale(length)
    best_tm = 0.0
    best_within = dict.fromkeys((*_GDT_TS, *_GDT_HA), 0.0)
    for fragment in _fragments(length):
        for reach in (scale + 1.0, *sorted(best_within)):
            for distance in _fits(predicted, true, fragment, reach):
                best_tm = max(best_tm, float(np.mean(1.0 / (1.0 + np.square(distance / scale)))))
                for threshold in best_within:
                    best_within[threshold] = max(best_within[threshold], float(np.mean(distance <= threshold)))
    mean = lambda thresholds: float(np.mean([best_within[threshold] for threshold in thresholds]))  # noqa: E731
    return best_tm, mean(_GDT_TS), mean(_GDT_HA)


def _fragments(length: int) -> list[np.ndarray]:
    """Stretches of the chain to begin with, a quarter of their length apart."""
    fragments = []
    size = length
    while True:
        step = max(size // 4, 1)
        fragments += [np.arange(start, start + size) for start in range(0, length - size + 1, step)]
        if size <= _FEWEST:
            return fragments
        size = max(size // 2, min(_FEWEST, length))


def _fits(predicted: Points, true: Points, chosen: np.ndarray, reach: float):
    """Distances of all points after each round of fitting those chosen, which then are those within `reach`."""
    for _ in range(_ROUNDS):
        rotation, shift = superposition(predicted[chosen], true[chosen])
        distance = np.linalg.norm(predicted @ rotation + shift - true, axis=-1)
        yield distance
        near = np.flatnonzero(distance < reach)
        while len(near) < 3:  # a superposition needs them
            reach += 0.5
            near = np.flatnonzero(distance < reach)
        if np.array_equal(near, chosen):
            return
        chosen = near
