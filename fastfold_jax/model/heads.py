"""The output heads: maps from representations to float32 logits, and the bins those logits speak of.

Each head reads activations of any type and computes in float32. Attribute names are DeepMind's scopes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.model.layers import LayerNorm, Linear


def _inner_edges(first: float, last: float, bins: int) -> np.ndarray:
    edges = np.linspace(first, last, bins - 1, dtype=np.float32)
    edges.flags.writeable = False
    return edges


DISTOGRAM_EDGES = _inner_edges(2.3125, 21.6875, 64)
"""[63] Å: what divides the 64 bins of Cβ distance. The first and the last bin are open."""

ALIGNED_ERROR_BREAKS = _inner_edges(0.0, 31.0, 64)
"""[63] Å: what divides the 64 bins of aligned error, each half an Å wide. The last is open, the first holds only 0."""

LDDT_BINS = 50
"""Equal bins of lDDT-Cα, 0..100."""

ATOM37_COLUMNS = 37


class DistogramHead(nnx.Module):
    """Distances between Cβ atoms, Cα for glycine (AlphaFold 2 supplement, 1.9.8)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.half_logits = Linear(config.c_z, len(DISTOGRAM_EDGES) + 1, init="zeros")
        self.axis = execution.axis

    def __call__(self, pair: Float[Array, "i j c_z"]) -> Float[Array, "i j 64"]:
        """Logits over the bins between `DISTOGRAM_EDGES`, equal for (i, j) and (j, i); this device's rows."""
        half = self.half_logits(pair.astype(jnp.float32))
        # Rows become whole and columns local, so that what is transposed are this device's rows again.
        columns = self.axis.all_to_all(half, split=1, concat=0)
        return half + jnp.swapaxes(columns, 0, 1)


class MaskedMsaHead(nnx.Module):
    """The letters that were hidden in the MSA (AlphaFold 2 supplement, 1.9.9)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        del execution
        self.logits = Linear(config.c_m, config.masked_msa_classes, init="zeros")

    def __call__(self, msa: Float[Array, "s i c_m"]) -> Float[Array, "s i letters"]:
        """Logits of each position's letter; `msa` without template rows."""
        return self.logits(msa.astype(jnp.float32))


class PredictedLDDTHead(nnx.Module):
    """The network's own estimate of lDDT-Cα (AlphaFold 2 supplement, Algorithm 29)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.input_layer_norm = LayerNorm(config.c_s, kernels=execution.kernels)
        self.act_0 = Linear(config.c_s, config.c_lddt, init="relu")
        self.act_1 = Linear(config.c_lddt, config.c_lddt, init="relu")
        self.logits = Linear(config.c_lddt, LDDT_BINS, init="zeros")

    def __call__(self, single: Float[Array, "i c_s"]) -> Float[Array, "i 50"]:
        """Logits from the structure module's last single representation."""
        act = self.input_layer_norm(single.astype(jnp.float32))
        act = jax.nn.relu(self.act_0(act))
        act = jax.nn.relu(self.act_1(act))
        return self.logits(act)


class PredictedAlignedErrorHead(nnx.Module):
    """Error of one residue in the frame of another (AlphaFold 2 supplement, 1.9.7)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        del execution
        self.logits = Linear(config.c_z, len(ALIGNED_ERROR_BREAKS) + 1, init="zeros")

    def __call__(self, pair: Float[Array, "i j c_z"]) -> Float[Array, "i j 64"]:
        """Logits over the bins between `ALIGNED_ERROR_BREAKS` for residue j aligned on residue i."""
        return self.logits(pair.astype(jnp.float32))


class ExperimentallyResolvedHead(nnx.Module):
    """Whether each atom would be seen in a good experimental structure (AlphaFold 2 supplement, 1.9.10)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        del execution
        self.logits = Linear(config.c_s, ATOM37_COLUMNS, init="zeros")

    def __call__(self, single: Float[Array, "i c_s"]) -> Float[Array, "i 37"]:
        """Logits (of a sigmoid) for the columns of atom37, from the trunk's single representation."""
        return self.logits(single.astype(jnp.float32))
