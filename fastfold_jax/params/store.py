"""DeepMind's parameter files into the model's state, and back bit for bit."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.model.alphafold import init_state
from fastfold_jax.params import npz
from fastfold_jax.params.fit import Storage, absent_heads, head_of, require, require_finite, storage
from fastfold_jax.params.npz import Npz, ParamsError

logger = logging.getLogger(__name__)


def load(
    path: Path,
    config: ModelConfig,
    *,
    device: jax.Device | jax.sharding.Sharding | None = None,
    draw_heads: int | None = None,
) -> Any:
    """Read DeepMind's parameter file of the network `config` into the model's state.

    Only headers are read before the file is known to fit. Arrays are then read one at a time, so that the host
    never holds much more than one copy of the parameters, and none of what has gone to an accelerator.

    Args:
      path: A flat npz file; `find` turns a directory and a preset's name into one.
      config: The network.
      device: Where the parameters go; None for JAX's default device.
      draw_heads: Seed that heads are drawn from of which the file has nothing; None: it must have all.

    Returns:
      The state `fastfold_jax.model.alphafold.abstract_state(config)` describes, float32.

    Raises:
      ParamsError: if the file is absent, damaged, of another network (the message says of which), or not finite.
    """
    stored = storage(config)
    with Npz(path) as file:
        absent = () if draw_heads is None else absent_heads(file.specs, config)
        require(path, file.specs, config, without=absent)
        leaves = {}
        for entry in stored.entries:
            if head_of(entry.keys[0]) in absent:
                continue
            arrays = [file.read(key) for key in entry.keys]
            for key, array in zip(entry.keys, arrays, strict=True):
                require_finite(path, key, array)
            values = entry.transform.to_state(arrays, [stored.shapes[leaf] for leaf in entry.leaves])
            for leaf, value in zip(entry.leaves, values, strict=True):
                leaves[leaf] = jax.device_put(np.ascontiguousarray(value), device)
    logger.info("%s: %d arrays read for %s", path, len(file.specs), config.name)
    if draw_heads is not None and absent:
        logger.info("%s: has no %s, drawn anew", path, ", ".join(absent))
        drawn = zip(stored.leaves, jax.tree_util.tree_leaves(init_state(config, draw_heads)), strict=True)
        leaves |= {leaf: jax.device_put(value, device) for leaf, value in drawn if leaf not in leaves}
    return jax.tree_util.tree_unflatten(stored.tree, [leaves[leaf] for leaf in stored.leaves])


def save(state: Any, config: ModelConfig, path: Path) -> None:
    """Write a state as DeepMind's code, ColabFold and `load` read it.

    The file is either whole or absent, and what `load` read is written back bit for bit.

    Args:
      state: As from `load`, `random`, or training.
      config: The network it belongs to.
      path: File to make; its directory exists.

    Raises:
      ParamsError: if the state is of another network, or the file cannot be written.
    """
    stored = storage(config)
    leaves = _leaves(state, stored, config)

    def arrays():
        for entry in stored.entries:
            values = entry.transform.to_file([np.asarray(leaves[leaf]) for leaf in entry.leaves])
            yield from zip(entry.keys, values, strict=True)

    npz.write(path, arrays())


def _leaves(state: Any, stored: Storage, config: ModelConfig) -> dict:
    values, tree = jax.tree_util.tree_flatten(state)
    fits = tree == stored.tree and all(
        value.shape == shape and value.dtype == np.float32
        for value, shape in zip(values, stored.shapes.values(), strict=True)
    )
    if not fits:
        raise ParamsError(f"the parameters are not those of {config.name}, or not float32")
    return dict(zip(stored.leaves, values, strict=True))
