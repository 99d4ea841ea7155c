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


# Parameters that shift all scores of a softmax alike, and a sibling of like size: their gradients are 0 up to rounding.
_INVARIANT = {
    "feat_2d_norm//offset": "feat_2d_norm//scale",
    "attention_2d//bias": "attention_2d//weights",
    "k_scalar_projection//bias": "k_scalar_projection//weights",
}


def gradients(ours: dict, theirs: dict) -> dict[str, float]:
    """`relative` of every parameter's gradient; both sides must have the same parameters."""
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    errors = {}
    for name, expected in theirs.items():
        sibling = next((name.replace(k, v) for k, v in _INVARIANT.items() if name.endswith(k)), None)
        if sibling is None:
            errors[name] = relative(ours[name], expected)
        else:
            # 0 where nothing reads what the module makes, as after a multimer's last extra MSA block.
            scale = np.max(np.abs(theirs[sibling]))
            errors[name] = float(np.max(np.abs(ours[name])) / scale) if scale else float(np.max(np.abs(ours[name])))
    return errors


def rms_error(array, exact, mask=1.0) -> float:
    """Root mean square difference where `mask` is not 0, over the root mean square there."""
    array, exact = np.asarray(array, np.float64), np.asarray(exact, np.float64)
    mask = np.asarray(mask) != 0
    mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array.shape)
    return float(np.sqrt(np.mean((array - exact)[mask] ** 2) / np.mean(exact[mask] ** 2)))
