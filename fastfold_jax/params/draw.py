"""An untrained network's parameters, drawn with NumPy in a second where XLA would compile for half a minute."""

import math
import zlib
from typing import Any

import jax
import numpy as np

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.params.fit import storage
from fastfold_jax.params.layout import Leaf, Shape

# Scopes whose parameters have a leading layer axis.
_STACKED = frozenset({"evoformer_iteration", "extra_msa_stack", "template_pair_stack", "template_embedding_iteration"})
_CONSTANT = {
    "scale": 1.0,
    "gating_b": 1.0,
    "offset": 0.0,
    "bias": 0.0,
    "output_b": 0.0,
    "trainable_point_weights": math.log(math.e - 1.0),  # whose softplus is 1
}


def random(config: ModelConfig, seed: int) -> Any:
    """A state in which every part of the network computes something; what it predicts means nothing.

    Unlike `fastfold_jax.model.alphafold.init_state`, which training starts from, it leaves no last map of a residual
    branch at zero. Each array depends only on its name, shape and the seed, on every machine alike.
    """
    stored = storage(config)
    leaves = [jax.device_put(_draw(leaf, stored.shapes[leaf], seed)) for leaf in stored.leaves]
    return jax.tree_util.tree_unflatten(stored.tree, leaves)


def _draw(leaf: Leaf, shape: Shape, seed: int) -> np.ndarray:
    if leaf[-1] in _CONSTANT:
        return np.full(shape, _CONSTANT[leaf[-1]], np.float32)
    layer_shape = shape[1:] if _STACKED.intersection(leaf) else shape
    rng = np.random.default_rng([seed, zlib.crc32("/".join(leaf).encode())])
    return rng.standard_normal(shape, np.float32) * np.float32(1.0 / math.sqrt(_fan_in(leaf[-1], layer_shape)))


def _fan_in(name: str, shape: Shape) -> int:
    """Inputs that are summed into one output of a layer."""
    if name == "output_w":  # heads and their channels, or both outer channels
        return math.prod(shape[:-1])
    return shape[0] if len(shape) > 1 else 1  # one axis: a map of a single number
