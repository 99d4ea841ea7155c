"""What both template embedders are made of: a template's pair features, the block's base, rows for the MSA."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.data.batch import Features
from fastfold_jax.geometry.atoms import pseudo_beta
from fastfold_jax.model.evoformer import PairTrack
from fastfold_jax.model.layers import Linear
from fastfold_jax.model.recycling import distance_bins

DISTANCE_BINS = 39
FIRST_BIN, LAST_BIN = 3.25, 50.75  # Å
LETTERS = 22  # residue types, unknown, gap
_TRANSITION_FACTOR = 2
_N, _CA, _C = (ATOM37_INDEX[name] for name in ("N", "CA", "C"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """One template, or several along a leading axis.

    Attributes:
      aatype: [N] int32, 0..21.
      positions: [N, 37, 3] float32, Å.
      atom_mask: [N, 37] float32.
      weight: Scalar; 0 for an absent template.
      key: For dropout, or None.
    """

    aatype: Any
    positions: Any
    atom_mask: Any
    weight: Any
    key: Any

    @property
    def backbone(self) -> tuple[Float[Array, "n 3"], Float[Array, "n 3"], Float[Array, "n 3"]]:
        """Positions of N, CA and C."""
        return self.positions[:, _N], self.positions[:, _CA], self.positions[:, _C]


def templates_of(features: Features, key: PRNGKeyArray | None) -> Template:
    """All templates, to be scanned over."""
    count = features.template_aatype.shape[0]
    return Template(
        aatype=features.template_aatype,
        positions=features.template_all_atom_positions,
        atom_mask=features.template_all_atom_mask,
        weight=features.template_mask,
        key=None if key is None else jax.random.split(key, count),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplatePairs:
    """Features of a template's residue pairs (AlphaFold 2 supplement, table 1), this device's rows.

    Attributes:
      distances: [i, N, 39] one-hot bins of Cβ distance.
      beta_mask: [i, N] 1 where both Cβ are known.
      letters: [N, 22] one-hot residue types.
      row_letters: [i, 22] those of this device's rows.
      backbone_mask: [i, N] 1 where both backbones are known.
    """

    distances: Array
    beta_mask: Array
    letters: Array
    row_letters: Array
    backbone_mask: Array


def template_pairs(template: Template, execution: Execution) -> TemplatePairs:
    """Pair features of one template; nothing in them is masked yet."""
    axis, dtype = execution.axis, execution.dtype
    beta, beta_mask = pseudo_beta(template.aatype, template.positions, template.atom_mask)
    backbone_mask = jnp.prod(template.atom_mask[:, jnp.array([_N, _CA, _C])], axis=-1)
    columns = distance_bins(beta, first=FIRST_BIN, last=LAST_BIN, bins=DISTANCE_BINS, axis=axis)
    letters = jax.nn.one_hot(template.aatype, LETTERS, dtype=dtype)
    return TemplatePairs(
        # Distances are symmetric: what was made for this device's columns serves for its rows.
        distances=jnp.swapaxes(columns, 0, 1).astype(dtype),
        beta_mask=axis.shard(beta_mask, 0)[:, None] * beta_mask,
        letters=letters,
        row_letters=axis.shard(letters, 0),
        backbone_mask=axis.shard(backbone_mask, 0)[:, None] * backbone_mask,
    )


class TemplateBlock(PairTrack):
    """Base of the blocks that update a template's pairs: the Evoformer's pair track with fewer channels."""

    def __init__(self, config: ModelConfig, execution: Execution):
        super().__init__(
            config.c_t,
            config.pair_heads,
            execution,
            head_dim=config.c_template_attention // config.pair_heads,
            transition_factor=_TRANSITION_FACTOR,
        )


class TemplateEmbedder(nnx.Module):
    """Base of the embedders: adds templates to the pairs, and their torsion angles to the MSA as further rows.

    This module has no scope of its own in DeepMind's parameters: its members lie directly under the Evoformer's.

    Attributes:
      template_single_embedding, template_projection: The two maps that make MSA rows.
    """

    def __init__(self, row_features: int, config: ModelConfig, execution: Execution):
        self.template_single_embedding = Linear(row_features, config.c_m, init="relu")
        self.template_projection = Linear(config.c_m, config.c_m, init="relu")
        self.execution = execution

    def pair_update(
        self, pair: Float[Array, "n j z"], features: Features, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n j z"]:
        """What templates add to `pair`, of which this device holds and gets columns. `key` is None for no dropout."""
        raise NotImplementedError

    def msa_rows(self, features: Features) -> tuple[Float[Array, "t n m"], Float[Array, "t n"]]:
        """Rows to append to the MSA, whole on every device, and their mask."""
        raise NotImplementedError

    def embed_rows(
        self, row_features: Float[Array, "t n f"], mask: Float[Array, "t n"], features: Features
    ) -> tuple[Float[Array, "t n m"], Float[Array, "t n"]]:
        """Embeds torsion features; masks absent templates and padded residues."""
        hidden = jax.nn.relu(self.template_single_embedding(row_features.astype(self.execution.dtype)))
        exists = (features.template_mask > 0)[:, None] * features.seq_mask
        return self.template_projection(hidden), mask * exists
