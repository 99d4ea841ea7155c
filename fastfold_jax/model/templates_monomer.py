"""How AlphaFold 2's monomer networks embed templates: each pair of residues attends to them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MonomerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.geometry.torsions import torsions_from_atom37
from fastfold_jax.model.evoformer import split_key
from fastfold_jax.model.layers import LayerNorm, Linear, parameter, scan_blocks, stack
from fastfold_jax.model.template_pairs import (
    DISTANCE_BINS,
    LETTERS,
    Template,
    TemplateBlock,
    TemplateEmbedder,
    template_pairs,
    templates_of,
)
from pallas_kernels import matmul
from parallel.layout import join_local

# One-hot letters, sine and cosine of seven angles in both namings, the angles' mask.
_ROW_FEATURES = LETTERS + 14 + 14 + 7
_PSI = 2
_MASKED_SCORE = -1e9


class MonomerTemplateBlock(TemplateBlock):
    """One block of the template pair stack (AlphaFold 2 supplement, Algorithm 16): attention first."""

    def __call__(
        self, pair: Float[Array, "i n c"], seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> Float[Array, "i n c"]:
        """Rows in, rows out."""
        keys = split_key(key, 4)
        columns, bias = self.attend_starting(self.slabs(pair), seq_mask, keys[0])
        columns = self.attend_ending(columns, bias, seq_mask, keys[1])
        rows = self.multiply(self.begin(self.columns_to_rows(columns), seq_mask), seq_mask, keys[2:])
        return join_local([self.pair_transition(pair) for pair in rows], 0)


class MonomerSingleTemplate(nnx.Module):
    """Pair representation of one template (supplement, Algorithm 2, lines 9 and 11)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        # Distances, Cβ mask, letters of j and of i, a unit vector, backbone mask.
        self.embedding2d = Linear(DISTANCE_BINS + 1 + LETTERS + LETTERS + 3 + 1, config.c_t, init="relu")
        self.template_pair_stack = (
            stack(lambda: MonomerTemplateBlock(config, execution), config.template_blocks)
            if config.template_blocks
            else None
        )
        self.output_layer_norm = LayerNorm(config.c_t, kernels=execution.kernels)
        self.execution = execution

    def __call__(self, template: Template, seq_mask: Float[Array, " n"]) -> Float[Array, "i n c"]:
        """This device's rows."""
        pair = self.embed(template)
        if self.template_pair_stack is not None:
            pair = scan_blocks(
                self.template_pair_stack,
                lambda block, pair, key: block(pair, seq_mask, key),
                pair,
                key=template.key,
                remat=self.execution.remat,
            )
        return self.output_layer_norm(pair)

    def embed(self, template: Template) -> Float[Array, "i n c"]:
        """Embeds the pair features, block by block of the weights: their 88 channels are never put side by side.

        DISCREPANCY: the released networks get zeros in place of the unit vectors between residues.
        """
        pairs = template_pairs(template, self.execution)
        sizes = (DISTANCE_BINS, 1, LETTERS, LETTERS, 3, 1)
        starts = [sum(sizes[:i]) for i in range(1, len(sizes))]
        distances, beta, column, row, _, backbone = jnp.split(self.embedding2d.weights[...], starts)
        known = pairs.backbone_mask[..., None]
        embedded = (
            matmul(pairs.distances, distances)
            + pairs.beta_mask[..., None] * beta[0]
            + matmul(pairs.letters, column)
            + matmul(pairs.row_letters, row)[:, None]
            + known * backbone[0]
        )
        return (embedded * known + self.embedding2d.bias[...]).astype(self.execution.dtype)


class TemplatePointwiseAttention(nnx.Module):
    """Attention of each pair to the same pair in all templates (supplement, Algorithm 17), one template at a time.

    Attributes:
      query_w: [c_z, heads, head_dim].
      key_w, value_w: [c_t, heads, head_dim].
      output_w: [heads, head_dim, c_z].
      output_b: [c_z].
    """

    def __init__(self, config: ModelConfig):
        heads, head_dim = config.pair_heads, config.c_template_attention // config.pair_heads
        self.query_w = parameter((config.c_z, heads, head_dim), "glorot", fan_in=config.c_z)
        self.key_w = parameter((config.c_t, heads, head_dim), "glorot", fan_in=config.c_t)
        self.value_w = parameter((config.c_t, heads, head_dim), "glorot", fan_in=config.c_t)
        self.output_w = parameter((heads, head_dim, config.c_z), "zeros", fan_in=heads * head_dim)
        self.output_b = parameter(config.c_z, 0.0)

    def start(self, query: Float[Array, "i n z"]) -> tuple[Array, Array, Array]:
        """The sums before the first template: highest score, sum of weights, weighted sum of values."""
        heads, head_dim = self.query_w[...].shape[1:]
        shape = (*query.shape[:2], heads)
        return jnp.full(shape, _MASKED_SCORE), jnp.zeros(shape), jnp.zeros((*shape, head_dim))

    def add(
        self,
        sums: tuple[Array, Array, Array],
        query: Float[Array, "i n z"],
        template: Float[Array, "i n c"],
        weight: Float[Array, ""],
    ) -> tuple[Array, Array, Array]:
        """The sums with one template more; one of weight 0 changes nothing."""
        highest, total, values = sums
        q = matmul(query, self.query_w[...]) * self.query_w[...].shape[-1] ** -0.5
        k_and_v = matmul(template, jnp.stack([self.key_w[...], self.value_w[...]], axis=1))
        k, v = k_and_v[..., 0, :, :], k_and_v[..., 1, :, :]
        present = weight > 0
        score = jnp.where(present, jnp.sum(q * k, axis=-1), _MASKED_SCORE)
        new_highest = jax.lax.stop_gradient(jnp.maximum(highest, score))
        rescale = jnp.exp(highest - new_highest)
        share = jnp.exp(score - new_highest) * present
        return new_highest, total * rescale + share, values * rescale[..., None] + v * share[..., None]

    def finish(self, sums: tuple[Array, Array, Array]) -> Float[Array, "i n z"]:
        """The attention's output, float32."""
        _, total, values = sums
        # 0 without any template, else at least 1. Not `maximum(total, 1)`: with a single template both are equal, and a
        # maximum passes only half of the gradient where its arguments tie.
        mean = values / jnp.where(total > 0, total, 1.0)[..., None]
        output_w = self.output_w[...]
        return matmul(mean.reshape(*mean.shape[:2], -1), output_w.reshape(-1, output_w.shape[-1])) + self.output_b[...]


class MonomerTemplateEmbedding(nnx.Module):
    """Templates' contribution to the pairs (supplement, Algorithm 2, lines 9 to 13)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.single_template_embedding = MonomerSingleTemplate(config, execution)
        self.attention = TemplatePointwiseAttention(config)
        self.execution = execution

    def __call__(
        self, query: Float[Array, "i n z"], templates: Template, seq_mask: Float[Array, " n"]
    ) -> Float[Array, "i n z"]:
        """Rows in, rows out; zeros without any template."""

        def add(sums, template):
            pair = self.single_template_embedding(template, seq_mask)
            return self.attention.add(sums, query, pair, template.weight), None

        # A running softmax: no more than one template's pair representation exists at a time.
        add = jax.checkpoint(add, prevent_cse=False) if self.execution.remat else add
        sums, _ = jax.lax.scan(add, self.attention.start(query), templates)
        return (self.attention.finish(sums) * jnp.any(templates.weight > 0)).astype(query.dtype)


class MonomerTemplates(TemplateEmbedder):
    """Both uses a monomer network makes of templates."""

    def __init__(self, config: MonomerConfig, execution: Execution):
        super().__init__(_ROW_FEATURES, config, execution)
        self.template_embedding = MonomerTemplateEmbedding(config, execution)
        self.fill_undefined_torsions = config.fill_undefined_torsions

    def pair_update(
        self, pair: Float[Array, "n j z"], features: Features, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n j z"]:
        """See `TemplateEmbedder`."""
        axis = self.execution.axis
        rows = axis.all_to_all(pair, split=0, concat=1)
        update = self.template_embedding(rows, templates_of(features, key), features.seq_mask.astype(pair.dtype))
        return axis.all_to_all(update, split=1, concat=0)

    def msa_rows(self, features: Features) -> tuple[Float[Array, "t n m"], Float[Array, "t n"]]:
        """See `TemplateEmbedder`; supplement, Algorithm 2, lines 7 and 8.

        A residue counts where its psi is known, the one angle that depends on a single residue's backbone.
        """
        torsions = torsions_from_atom37(
            features.template_aatype,
            features.template_all_atom_positions,
            features.template_all_atom_mask,
            fill_undefined=self.fill_undefined_torsions,
        )
        shape = features.template_aatype.shape
        row_features = (
            jax.nn.one_hot(features.template_aatype, LETTERS),
            torsions.sin_cos.reshape(*shape, 14),
            torsions.alternative_sin_cos.reshape(*shape, 14),
            torsions.mask,
        )
        return self.embed_rows(jnp.concatenate(row_features, axis=-1), torsions.mask[..., _PSI], features)
