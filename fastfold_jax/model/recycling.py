"""What one pass hands to the next, and how it is embedded."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.geometry.atoms import pseudo_beta
from fastfold_jax.model.layers import LayerNorm, Linear
from parallel.axis import Axis

_BINS = 15
_FIRST_BIN, _LAST_BIN = 3.25, 20.75


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prev:
    """The state carried from pass to pass.

    Attributes:
      pos: [N, 37, 3] float32, Å.
      msa_first_row: [N, c_m].
      pair: [N, N, c_z]; this device's columns under Dynamic Axial Parallelism.
    """

    pos: Any
    msa_first_row: Any
    pair: Any


def init_prev(num_res: int, config: ModelConfig, execution: Execution) -> Prev:
    """The state before the first pass: zeros, for this device's part of the pairs."""
    return Prev(
        pos=jnp.zeros((num_res, 37, 3), jnp.float32),
        msa_first_row=jnp.zeros((num_res, config.c_m), execution.dtype),
        pair=jnp.zeros((num_res, num_res // execution.axis.size, config.c_z), execution.dtype),
    )


def distance_bins(
    positions: Float[Array, "n 3"], *, first: float, last: float, bins: int, axis: Axis
) -> Float[Array, "n j bins"]:
    """One-hot distance bins for every residue i and this device's residues j; none is set at or below `first` Å.

    The last bin is open. DISCREPANCY: the supplement picks the nearest bin centre (Algorithm 32); the released code
    compares with lower edges.
    """
    lower = np.square(np.linspace(first, last, bins, dtype=np.float32))
    upper = np.append(lower[1:], np.float32(1e8))
    local = axis.shard(positions, 0)
    squares = (jnp.square(positions[:, None, d] - local[None, :, d]) for d in range(3))
    squared = functools.reduce(jnp.add, squares)[..., None]
    return jnp.logical_and(squared > lower, squared < upper).astype(jnp.float32)


class RecyclingEmbedder(nnx.Module):
    """Embeds the previous pass (AlphaFold 2 supplement, Algorithm 32)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.prev_pos_linear = Linear(_BINS, config.c_z)
        self.prev_msa_first_row_norm = LayerNorm(config.c_m, kernels=execution.kernels)
        self.prev_pair_norm = LayerNorm(config.c_z, kernels=execution.kernels)
        self.execution = execution

    def pair(self, features: Features, prev: Prev) -> Float[Array, "n j z"]:
        """Pair update for every residue i and this device's residues j."""
        beta, _ = pseudo_beta(features.aatype, prev.pos, jnp.ones(prev.pos.shape[:-1]))
        bins = distance_bins(beta, first=_FIRST_BIN, last=_LAST_BIN, bins=_BINS, axis=self.execution.axis)
        dtype = self.execution.dtype
        return self.prev_pos_linear(bins.astype(dtype)) + self.prev_pair_norm(prev.pair).astype(dtype)

    def msa_first_row(self, prev: Prev) -> Float[Array, "n m"]:
        """Update of the first MSA row."""
        return self.prev_msa_first_row_norm(prev.msa_first_row).astype(self.execution.dtype)
