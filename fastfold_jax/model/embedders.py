"""From features to the first MSA and pair representations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MonomerConfig, MultimerConfig
from fastfold_jax.data.batch import MSA_CHANNELS, Features
from fastfold_jax.model.evoformer import block_type
from fastfold_jax.model.layers import Linear
from parallel.axis import Axis

EXTRA_MSA_FEATURES = 25
MSA_LETTERS = 23
_RESIDUE_TYPES = 21


def differences(ids: Int[Array, " n"], axis: Axis) -> Int[Array, "n j"]:
    """ids[i] - ids[j] for every residue i and this device's residues j."""
    return ids[:, None] - axis.shard(ids, 0)[None, :]


class RelativePosition(nnx.Module):
    """Relative positions within one chain (AlphaFold 2 supplement, Algorithm 4).

    DISCREPANCY: the scope's name is misspelled in the released parameters.
    """

    def __init__(self, config: MonomerConfig, execution: Execution):
        self.pair_activiations = Linear(2 * config.max_relative_idx + 1, config.c_z)
        self.largest = config.max_relative_idx
        self.execution = execution

    def __call__(self, features: Features) -> Float[Array, "n j z"]:
        """Pair update for every residue i and this device's residues j."""
        offset = differences(features.residue_index, self.execution.axis)
        clipped = jnp.clip(offset + self.largest, 0, 2 * self.largest)
        return self.pair_activiations(jax.nn.one_hot(clipped, 2 * self.largest + 1, dtype=self.execution.dtype))


class ChainRelativePosition(nnx.Module):
    """Relative positions, copies and identity of chains (AlphaFold-Multimer, section 2.1 and supplement)."""

    def __init__(self, config: MultimerConfig, execution: Execution):
        self.max_idx = config.max_relative_idx
        self.max_chain = config.max_relative_chain
        # One bin more each for residues of different chains and for chains of different entities.
        self.position_activations = Linear((2 * self.max_idx + 2) + 1 + (2 * self.max_chain + 2), config.c_z)
        self.execution = execution

    def __call__(self, features: Features) -> Float[Array, "n j z"]:
        """Pair update for every residue i and this device's residues j."""
        axis, dtype = self.execution.axis, self.execution.dtype
        same_chain = differences(features.asym_id, axis) == 0
        same_entity = differences(features.entity_id, axis) == 0
        offset = jnp.clip(differences(features.residue_index, axis) + self.max_idx, 0, 2 * self.max_idx)
        copy = jnp.clip(differences(features.sym_id, axis) + self.max_chain, 0, 2 * self.max_chain)
        encoded = (
            jax.nn.one_hot(jnp.where(same_chain, offset, 2 * self.max_idx + 1), 2 * self.max_idx + 2, dtype=dtype),
            same_entity[..., None].astype(dtype),
            jax.nn.one_hot(jnp.where(same_entity, copy, 2 * self.max_chain + 1), 2 * self.max_chain + 2, dtype=dtype),
        )
        return self.position_activations(jnp.concatenate(encoded, axis=-1))


class InputEmbedder(nnx.Module):
    """Embeds sequence and MSA clusters (AlphaFold 2 supplement, Algorithm 3)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.target_feat_dim = config.target_feat_dim
        self.preprocess_1d = Linear(self.target_feat_dim, config.c_m)
        self.preprocess_msa = Linear(MSA_CHANNELS, config.c_m)
        self.left_single = Linear(self.target_feat_dim, config.c_z)
        self.right_single = Linear(self.target_feat_dim, config.c_z)
        is_complex = isinstance(config, MultimerConfig)
        position: Callable[..., nnx.Module] = ChainRelativePosition if is_complex else RelativePosition
        self.relative_encoding = position(config, execution)
        self.msa_sharded = block_type(config).msa_sharded
        self.execution = execution

    def target_feat(self, aatype: Int[Array, " n"]) -> Float[Array, "n f"]:
        """One-hot residue types. The monomer's first feature, a flag for chain breaks, is 0 in all pipelines."""
        first = self.target_feat_dim - _RESIDUE_TYPES
        return jax.nn.one_hot(aatype + first, self.target_feat_dim, dtype=self.execution.dtype)

    def msa(self, features: Features) -> Float[Array, "s n m"]:
        """The MSA representation: this device's rows or residues, as the features are."""
        msa = self.preprocess_msa(features.msa_feat.astype(self.execution.dtype))
        target = self.preprocess_1d(self.target_feat(features.aatype))
        return msa + (self.execution.axis.shard(target, 0) if self.msa_sharded == 1 else target)

    def pair(self, features: Features) -> Float[Array, "n j z"]:
        """The pair representation for every residue i and this device's residues j."""
        target_feat = self.target_feat(features.aatype)
        right = self.execution.axis.shard(target_feat, 0)
        return self.left_single(target_feat)[:, None] + self.right_single(right) + self.relative_encoding(features)


class ExtraMSAEmbedder(nnx.Module):
    """Embeds the MSA rows that are no cluster centres (AlphaFold 2 supplement, 1.9.6)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.extra_msa_activations = Linear(EXTRA_MSA_FEATURES, config.c_e)
        self.execution = execution

    def __call__(self, features: Features) -> Float[Array, "e n c"]:
        """The extra MSA representation: this device's rows or residues, as the features are.

        One-hot letters are made here because they are 25 times the input.
        """
        dtype = self.execution.dtype
        deletion = features.extra_deletion_value
        encoded = (
            jax.nn.one_hot(features.extra_msa, MSA_LETTERS, dtype=dtype),
            (deletion > 0)[..., None].astype(dtype),
            deletion[..., None].astype(dtype),
        )
        return self.extra_msa_activations(jnp.concatenate(encoded, axis=-1))
