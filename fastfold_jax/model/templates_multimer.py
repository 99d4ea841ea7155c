"""How AlphaFold-Multimer embeds templates: each sees the query, and their mean is added to the pairs."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MultimerConfig
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

# One-hot letters, sine, cosine and mask of four chi angles.
_ROW_FEATURES = LETTERS + 4 + 4 + 4
_CHI_1 = 3
_SMALLEST_NORM = 1e-6  # Å


class ScalarLinear(nnx.Module):
    """Affine map of a single number to several channels.

    Attributes:
      weights, bias: [channels] float32.
    """

    def __init__(self, channels: int):
        self.weights = parameter((channels,), "relu", fan_in=1)
        self.bias = parameter(channels, 0.0)

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape c"]:
        """Adds an axis of channels."""
        return x[..., None] * self.weights[...] + self.bias[...]


class MultimerTemplateBlock(TemplateBlock):
    """One block of a template's pair updates: the Evoformer's order, unlike the monomer's template stack."""

    def __call__(
        self, pair: Float[Array, "i n c"], seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> Float[Array, "i n c"]:
        """Rows in, rows out."""
        columns = self.pair_track(self.begin(self.slabs(pair), seq_mask), seq_mask, split_key(key, 4))
        return self.axis.all_to_all(columns, split=0, concat=1)


def unit_vectors(template: Template, execution: Execution) -> Float[Array, "3 i n"]:
    """Direction of residue j's CA in the backbone frame of residue i, for this device's rows i.

    DISCREPANCY: a residue has no direction to itself, yet the released networks were trained with one: what rounding
    leaves of Rᵀx - Rᵀx, scaled to unit length. So this adds up two such products, where subtracting x first would be
    exact, and every sum is written in DeepMind's order: XLA then rounds it as it does there.
    """
    axis = execution.axis
    n, ca, c = (_components(axis.shard(atom, 0)) for atom in template.backbone)
    points = [x[None, :] for x in _components(template.backbone[1])]
    origin = [-x[:, None] for x in ca]
    local = []
    for direction in _backbone_axes(n, ca, c):
        along = [x[:, None] for x in direction]
        local.append(_dot(along, points) + _dot(along, origin))
    return jnp.stack(_normalize(local))


# Vectors as lists of three arrays: what is made of pairs is three [i, n] arrays, not one whose last axis is 3.


def _components(points: Float[Array, "i 3"]) -> list[Array]:
    return [points[:, d] for d in range(3)]


def _dot(a: list[Array], b: list[Array]) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normalize(vector: list[Array]) -> list[Array]:
    length = jnp.sqrt(jnp.maximum(_dot(vector, vector), _SMALLEST_NORM**2))
    return [x / length for x in vector]


def _backbone_axes(n: list[Array], ca: list[Array], c: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
    """Axes of the frame with C on the positive x axis and N in the xy plane at y > 0."""
    x = _normalize([end - start for end, start in zip(c, ca, strict=True)])
    to_n = [end - start for end, start in zip(n, ca, strict=True)]
    along_x = _dot(to_n, x)
    y = _normalize([total - along_x * part for total, part in zip(to_n, x, strict=True)])
    z = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]]
    return x, y, z


class MultimerSingleTemplate(nnx.Module):
    """Pair representation of one template (AlphaFold-Multimer, section 2.2)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.template_pair_embedding_0 = Linear(DISTANCE_BINS, config.c_t, init="relu")
        self.template_pair_embedding_1 = ScalarLinear(config.c_t)
        self.template_pair_embedding_2 = Linear(LETTERS, config.c_t, init="relu")
        self.template_pair_embedding_3 = Linear(LETTERS, config.c_t, init="relu")
        self.template_pair_embedding_4 = ScalarLinear(config.c_t)
        self.template_pair_embedding_5 = ScalarLinear(config.c_t)
        self.template_pair_embedding_6 = ScalarLinear(config.c_t)
        self.template_pair_embedding_7 = ScalarLinear(config.c_t)
        self.query_embedding_norm = LayerNorm(config.c_z, kernels=execution.kernels)
        self.template_pair_embedding_8 = Linear(config.c_z, config.c_t, init="relu")
        self.template_embedding_iteration = (
            stack(lambda: MultimerTemplateBlock(config, execution), config.template_blocks)
            if config.template_blocks
            else None
        )
        self.output_layer_norm = LayerNorm(config.c_t, kernels=execution.kernels)
        self.execution = execution

    def __call__(
        self,
        query: Float[Array, "i n z"],
        template: Template,
        same_chain: Float[Array, "i n"],
        seq_mask: Float[Array, " n"],
    ) -> Float[Array, "i n c"]:
        """This device's rows."""
        pair = self.embed(query, template, same_chain)
        if self.template_embedding_iteration is not None:
            pair = scan_blocks(
                self.template_embedding_iteration,
                lambda block, pair, key: block(pair, seq_mask, key),
                pair,
                key=template.key,
                remat=self.execution.remat,
            )
        return self.output_layer_norm(pair)

    def embed(
        self, query: Float[Array, "i n z"], template: Template, same_chain: Float[Array, "i n"]
    ) -> Float[Array, "i n c"]:
        """Embeds the pair features, geometry only within chains: templates are of single chains."""
        pairs = template_pairs(template, self.execution)
        beta_mask = pairs.beta_mask * same_chain
        backbone_mask = pairs.backbone_mask * same_chain
        x, y, z = unit_vectors(template, self.execution) * backbone_mask
        embedded = (
            self.template_pair_embedding_0(pairs.distances * beta_mask[..., None].astype(pairs.distances.dtype))
            + self.template_pair_embedding_1(beta_mask)
            + self.template_pair_embedding_2(pairs.letters)
            + self.template_pair_embedding_3(pairs.row_letters)[:, None]
            + self.template_pair_embedding_4(x)
            + self.template_pair_embedding_5(y)
            + self.template_pair_embedding_6(z)
            + self.template_pair_embedding_7(backbone_mask)
            + self.template_pair_embedding_8(self.query_embedding_norm(query))
        )
        return embedded.astype(query.dtype)


class MultimerTemplateEmbedding(nnx.Module):
    """Templates' contribution to the pairs (AlphaFold-Multimer, section 2.2)."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.single_template_embedding = MultimerSingleTemplate(config, execution)
        self.output_linear = Linear(config.c_t, config.c_z, init="relu")
        self.execution = execution

    def __call__(
        self,
        query: Float[Array, "i n z"],
        templates: Template,
        same_chain: Float[Array, "i n"],
        seq_mask: Float[Array, " n"],
    ) -> Float[Array, "i n z"]:
        """Rows in, rows out; zeros if no template has any weight.

        The mean is weighted by `templates.weight`. A slot without a structure is embedded and counts like any other,
        as it did in training; one of weight 2 counts as two equal slots, one of weight 0 not at all.
        """

        def add(total, template):
            pair = self.single_template_embedding(query, template, same_chain, seq_mask)
            return total + pair * template.weight.astype(pair.dtype), None

        add = jax.checkpoint(add, prevent_cse=False) if self.execution.remat else add
        channels = self.output_linear.weights[...].shape[0]
        total, _ = jax.lax.scan(add, jnp.zeros((*query.shape[:2], channels), query.dtype), templates)
        weight = jnp.sum(templates.weight)
        mean = total / jnp.where(weight > 0, weight, 1.0).astype(total.dtype)
        return self.output_linear(jax.nn.relu(mean)) * (weight > 0).astype(query.dtype)


class MultimerTemplates(TemplateEmbedder):
    """Both uses a multimer network makes of templates."""

    def __init__(self, config: MultimerConfig, execution: Execution):
        super().__init__(_ROW_FEATURES, config, execution)
        self.template_embedding = MultimerTemplateEmbedding(config, execution)

    def pair_update(
        self, pair: Float[Array, "n j z"], features: Features, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n j z"]:
        """See `TemplateEmbedder`."""
        axis = self.execution.axis
        rows = axis.all_to_all(pair, split=0, concat=1)
        chains = features.asym_id
        same_chain = (axis.shard(chains, 0)[:, None] == chains).astype(jnp.float32)
        seq_mask = features.seq_mask.astype(pair.dtype)
        update = self.template_embedding(rows, templates_of(features, key), same_chain, seq_mask)
        return axis.all_to_all(update, split=1, concat=0)

    def msa_rows(self, features: Features) -> tuple[Float[Array, "t n m"], Float[Array, "t n"]]:
        """See `TemplateEmbedder`.

        DISCREPANCY: a residue counts only where its chi 1 is known, so glycine and alanine never do.
        """
        torsions = torsions_from_atom37(
            features.template_aatype, features.template_all_atom_positions, features.template_all_atom_mask
        )
        sin_cos, mask = torsions.sin_cos[..., _CHI_1:, :], torsions.mask[..., _CHI_1:]
        row_features = (
            jax.nn.one_hot(features.template_aatype, LETTERS),
            sin_cos[..., 0] * mask,
            sin_cos[..., 1] * mask,
            mask,
        )
        return self.embed_rows(jnp.concatenate(row_features, axis=-1), mask[..., 0], features)
