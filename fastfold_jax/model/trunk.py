"""From features to representations: embedders, templates, the extra MSA stack and the Evoformer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.model.embedders import ExtraMSAEmbedder, InputEmbedder
from fastfold_jax.model.evoformer import block_type, evoformer_stack, extra_msa_stack, run_stack, split_key
from fastfold_jax.model.layers import Linear
from fastfold_jax.model.recycling import Prev, RecyclingEmbedder
from fastfold_jax.model.templates import template_embedder

# What `data.sampling` draws anew for each member of an ensemble; the rest of the features are shared.
SAMPLED_FEATURES = ("msa_feat", "msa_mask", "extra_msa", "extra_deletion_value", "extra_msa_mask")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Representations:
    """What the trunk knows about a protein.

    Attributes:
      single: [N, c_s].
      msa_first_row: [N, c_m].
      msa: [S, N, c_m] without template rows, this device's rows or residues.
      pair: [N, N, c_z], this device's columns.
    """

    single: Any
    msa_first_row: Any
    msa: Any
    pair: Any


class Trunk(nnx.Module):
    """Lines 1 to 18 of inference (AlphaFold 2 supplement, Algorithm 2)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.input_embedder = InputEmbedder(config, execution)
        self.recycling_embedder = RecyclingEmbedder(config, execution)
        self.template_embedder = template_embedder(config, execution) if config.num_templates else None
        self.extra_msa_embedder = ExtraMSAEmbedder(config, execution)
        self.extra_msa_stack = extra_msa_stack(config, execution) if config.extra_msa_blocks else None
        self.evoformer_iteration = evoformer_stack(config, execution)
        self.single_activations = Linear(config.c_m, config.c_s)
        self.msa_sharded = block_type(config).msa_sharded
        self.num_ensemble = config.num_ensemble
        self.execution = execution

    def __call__(self, features: Features, prev: Prev, key: PRNGKeyArray | None) -> Representations:
        """Representations of one pass, averaged over the ensemble if there is one. `key` is None for no dropout."""
        if self.num_ensemble == 1:
            return self.represent(features, prev, key)
        return self.average(features, prev, key)

    def average(self, features: Features, prev: Prev, key: PRNGKeyArray | None) -> Representations:
        """The mean over ensemble members; the MSA representation, which differs in its rows, is the first member's."""

        def member(index: int | Array) -> Representations:
            sampled = {
                name: lax.dynamic_index_in_dim(getattr(features, name), index, keepdims=False)
                for name in SAMPLED_FEATURES
            }
            member_key = None if key is None else jax.random.fold_in(key, index)
            return self.represent(dataclasses.replace(features, **sampled), prev, member_key)

        def add(total: Representations, index: Array) -> tuple[Representations, None]:
            new = member(index)
            summed = jax.tree.map(jnp.add, total, new)
            return dataclasses.replace(summed, msa=jnp.where(index == 0, new.msa, total.msa)), None

        shapes = jax.eval_shape(member, 0)
        # Summed in float32, so that bf16 does not round after each member.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
        total, _ = lax.scan(add, zeros, jnp.arange(self.num_ensemble))
        mean = dataclasses.replace(jax.tree.map(lambda x: x / self.num_ensemble, total), msa=total.msa)
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), mean, shapes)

    def represent(self, features: Features, prev: Prev, key: PRNGKeyArray | None) -> Representations:
        """Representations of one sample of features."""
        axis, remat = self.execution.axis, self.execution.remat
        template_key, extra_key, main_key = split_key(key, 3)
        seq_mask = features.seq_mask.astype(self.execution.dtype)

        z = self.input_embedder.pair(features) + self.recycling_embedder.pair(features, prev)
        if self.template_embedder is not None:
            z = z + self.template_embedder.pair_update(z, features, template_key)
        if self.extra_msa_stack is not None:
            extra = self.extra_msa_embedder(features)
            masks = (features.extra_msa_mask.astype(self.execution.dtype), seq_mask)
            _, z = run_stack(self.extra_msa_stack, extra, z, masks, key=extra_key, remat=remat)

        m, msa_mask = self.msa_with_templates(features, prev)
        m, z = run_stack(self.evoformer_iteration, m, z, (msa_mask, seq_mask), key=main_key, remat=remat)

        first_row = axis.from_first(m[0]) if self.msa_sharded == 0 else axis.gather(m[0], 0)
        return Representations(
            single=self.single_activations(first_row),
            msa_first_row=first_row,
            msa=m[: features.msa_feat.shape[0]],
            pair=z,
        )

    def msa_with_templates(
        self, features: Features, prev: Prev
    ) -> tuple[Float[Array, "s r m"], Float[Array, "rows n"]]:
        """This device's part of the MSA representation, template rows last, and the mask of the whole."""
        axis, dim = self.execution.axis, self.msa_sharded
        m = self.input_embedder.msa(features)
        first_row = self.recycling_embedder.msa_first_row(prev)
        m = m.at[0].add(axis.on_first(first_row) if dim == 0 else axis.shard(first_row, 0))
        mask = features.msa_mask.astype(m.dtype)
        if self.template_embedder is None:
            return m, mask
        # Where rows are split, each device has some of the templates' behind its own, and the mask's are in that order.
        rows, row_mask = (axis.padded(x.astype(m.dtype), 0) for x in self.template_embedder.msa_rows(features))
        m = jnp.concatenate([m, axis.shard(rows, dim)])
        mask = axis.gather(jnp.concatenate([axis.shard(mask, dim), axis.shard(row_mask, dim)]), dim)
        return m, mask
