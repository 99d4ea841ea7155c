"""How far two sets of arrays are apart, relative to their size."""

import numpy as np


def relative(ours, theirs, mask=1.0) -> float:
    """Largest difference where `mask` is not 0, over the largest value there."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    mask = np.asarray(mask) != 0
    mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (ours.ndim - mask.ndim)), ours.shape)
    scale = np.max(np.abs(theirs), where=mask, initial=0.0)
    error = np.max(np.abs(ours - theirs), where=mask, initial=0.0)
    assert np.isfinite(error) and np.isfinite(scale)
    return float(error / scale) if scale else float(error)


def worst(ours: dict, theirs: dict) -> dict[str, float]:
    """`relative` of every named array; both must have the same names."""
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    return {name: relative(ours[name], theirs[name]) for name in theirs}


def rms_error(array, exact, mask=1.0) -> float:
    """Root mean square difference where `mask` is not 0, over the root mean square there."""
    array, exact = np.asarray(array, np.float64), np.asarray(exact, np.float64)
    mask = np.asarray(mask) != 0
    mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array.shape)
    return float(np.sqrt(np.mean((array - exact)[mask] ** 2) / np.mean(exact[mask] ** 2)))
