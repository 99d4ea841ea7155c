"""The rigid motion that brings points nearest to others, in NumPy."""

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "n 3"]


def superposition(moving: Points, onto: Points) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Rotation and shift that bring `moving` nearest to `onto`: `moving @ rotation + shift` (Kabsch 1976)."""
    center, target = moving.mean(axis=0), onto.mean(axis=0)
    u, _, vt = np.linalg.svd((moving - center).T @ (onto - target))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    rotation = u @ vt
    return rotation, target - center @ rotation
