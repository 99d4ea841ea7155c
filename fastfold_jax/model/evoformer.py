"""The Evoformer block, in the monomer's and the multimer's order, for the main and the extra MSA stack.

Layouts under Dynamic Axial Parallelism: z enters and leaves sharded over columns; the pair track runs on rows until the
ending node's attention. m is carried sharded over rows where the outer product comes last, over residues where it
comes first. On one device every change of layout is the identity.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from fastfold_jax.config.execution import Execution, Remat
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.model.layers import scan_blocks, shared_dropout, stack
from fastfold_jax.model.msa import MSAColumnAttention, MSAColumnGlobalAttention, MSARowAttentionWithPairBias
from fastfold_jax.model.outer_product_mean import OuterProductMean
from fastfold_jax.model.transition import Transition
from fastfold_jax.model.triangle import TriangleAttention, TriangleMultiplication
from parallel.layout import cut_local, join, join_local, join_parts, num_slabs, parts
from parallel.pipeline import Step, pipeline

MSA_DROPOUT = 0.15
PAIR_DROPOUT = 0.25
_TRANSITION_FACTOR = 4

# On several devices a dimension is whole or local, so the same one has another length after a change of layout.
MSA = Float[Array, "s r c_m"]
Pair = Float[Array, "i j c_z"]
MovedMSA = Float[Array, "moved_s moved_r c_m"]
MovedPair = Float[Array, "moved_i moved_j c_z"]
Slabs = Sequence[Float[Array, "_ n c_z"]]
Begun = Sequence[tuple[Float[Array, "_ n c_z"], tuple[Array, Array]]]
ColumnAttention = type[MSAColumnAttention] | type[MSAColumnGlobalAttention]


class PairTrack(nnx.Module):
    """Base of blocks that update pairs: triangle multiplication, triangle attention, transition.

    A base class and not a member, because DeepMind's scopes have the five modules directly under the block's.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        execution: Execution,
        *,
        head_dim: int | None = None,
        transition_factor: int = _TRANSITION_FACTOR,
    ):
        head_dim = head_dim or channels // num_heads
        self.triangle_multiplication_outgoing = TriangleMultiplication(channels, "outgoing", execution)
        self.triangle_multiplication_incoming = TriangleMultiplication(channels, "incoming", execution)
        self.triangle_attention_starting_node = TriangleAttention(channels, num_heads, head_dim, "per_row", execution)
        self.triangle_attention_ending_node = TriangleAttention(channels, num_heads, head_dim, "per_column", execution)
        self.pair_transition = Transition(channels, transition_factor, execution)
        self.axis = execution.axis

    def slabs(self, z: Float[Array, "i n c_z"]) -> Slabs:
        """This device's rows as slabs, one if it is alone: what follows exchanges one while it computes another."""
        return cut_local(z, 0, num_slabs(z, 0, self.axis))

    def columns_to_rows(self, z: Pair) -> Slabs:
        """From pairs split over columns to slabs of pairs split over rows, in one exchange."""
        return self.slabs(self.axis.all_to_all(z, split=0, concat=1))

    def begin(self, rows: Slabs, seq_mask: Float[Array, " n"], first: Step | None = None) -> Begun:
        """What the triangle multiplications begin with: slabs of rows, and the outgoing one's exchanged operands.

        Args:
          first: Done to each slab before.
        """
        outgoing = self.triangle_multiplication_outgoing
        masks = cut_local(self.axis.shard(seq_mask, 0), 0, len(rows))

        def operands(slab: int, z: Any) -> Any:
            z = first(slab, z) if first else z
            return z, outgoing.operands(z, masks[slab][:, None] * seq_mask)

        return pipeline(rows, [operands, outgoing.exchange_rows])

    def multiply(self, begun: Begun, seq_mask: Float[Array, " n"], keys: list[PRNGKeyArray | None]) -> Slabs:
        """Both triangle multiplications, on rows."""
        outgoing, incoming = self.triangle_multiplication_outgoing, self.triangle_multiplication_incoming
        masks = cut_local(self.axis.shard(seq_mask, 0), 0, len(begun))

        def go_on(slab: int, value: Any) -> Any:
            z = outgoing_end(slab, value)
            return z, incoming.operands(z, masks[slab][:, None] * seq_mask)

        def end(module: TriangleMultiplication, key: PRNGKeyArray | None) -> Step:
            def add(slab: int, value: Any) -> Any:
                z, product = value
                return z + shared_dropout(module.update(product, z), key, PAIR_DROPOUT, shared=0)

            return add

        outgoing_end, incoming_end = end(outgoing, keys[0]), end(incoming, keys[1])
        multiply = outgoing.contraction([operands for _, operands in begun])
        values = pipeline([z for z, _ in begun], [multiply, outgoing.exchange_channels, go_on, incoming.exchange_rows])
        multiply = incoming.contraction([operands for _, operands in values])
        return pipeline([z for z, _ in values], [multiply, incoming.exchange_channels, incoming_end])

    def attend_starting(
        self, rows: Slabs, seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> tuple[MovedPair, Float[Array, "h n n"]]:
        """Attention around the starting node: takes rows, returns columns, and the ending node's bias."""
        starting, ending = self.triangle_attention_starting_node, self.triangle_attention_ending_node
        bias = starting.bias(rows)

        def attend(slab: int, z: Any) -> Any:
            z = z + shared_dropout(starting(z, bias, seq_mask), key, PAIR_DROPOUT, shared=0)
            return parts(z, 1, self.axis), ending.bias_of_rows(z)

        def exchange(slab: int, value: Any) -> Any:
            z, ending_bias = value
            return self.axis.exchange(z), self.axis.gather(ending_bias, 1)

        values = pipeline(rows, [attend, exchange])
        columns = join_parts([z for z, _ in values], 0, self.axis)
        return columns, ending.join_bias([part for _, part in values])

    def attend_ending(
        self, z: Pair, bias: Float[Array, "h n n"], seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> Pair:
        """Attention around the ending node, on columns."""
        update = self.triangle_attention_ending_node(z, bias, seq_mask)
        return z + shared_dropout(update, key, PAIR_DROPOUT, shared=1)

    def pair_track(self, begun: Begun, seq_mask: Float[Array, " n"], keys: list[PRNGKeyArray | None]) -> MovedPair:
        """The Evoformer's pair updates (AlphaFold 2 supplement, Algorithm 6, lines 6 to 10): rows in, columns out."""
        rows = self.multiply(begun, seq_mask, keys[:2])
        z, bias = self.attend_starting(rows, seq_mask, keys[2])
        z = self.attend_ending(z, bias, seq_mask, keys[3])
        return self.pair_transition(z)


class EvoformerBlock(PairTrack):
    """One block of the Evoformer or of the extra MSA stack (supplement, Algorithms 6 and 18).

    Subclasses order its parts.

    Attributes:
      msa_sharded: The dimension of m that is split over devices between blocks.
    """

    msa_sharded: ClassVar[int]

    def __init__(self, c_m: int, column_attention: ColumnAttention, config: ModelConfig, execution: Execution):
        super().__init__(config.c_z, config.pair_heads, execution)
        self.msa_row_attention_with_pair_bias = MSARowAttentionWithPairBias(
            c_m, config.c_z, config.msa_heads, execution
        )
        column = column_attention(c_m, config.msa_heads, execution)
        # The attribute is DeepMind's scope: the two kinds of column attention have different names there.
        if column_attention is MSAColumnGlobalAttention:
            self.msa_column_global_attention = column
        else:
            self.msa_column_attention = column
        self.column_scope = _COLUMN_SCOPES[column_attention]
        self.msa_transition = Transition(c_m, _TRANSITION_FACTOR, execution)
        self.outer_product_mean = OuterProductMean(c_m, config.c_outer, config.c_z, execution)

    def attend_rows(
        self,
        m: MSA,
        bias: Float[Array, "h n n"],
        mask: Float[Array, "rows n"],
        key: PRNGKeyArray | None,
    ) -> MovedMSA:
        """Row attention: takes rows, returns residues."""
        count = num_slabs(m, 0, self.axis)
        masks = cut_local(self.axis.shard(mask, 0), 0, count)

        def attend(slab: int, rows: Any) -> Any:
            update = self.msa_row_attention_with_pair_bias(rows, bias, masks[slab])
            return parts(rows + shared_dropout(update, key, MSA_DROPOUT, shared=0), 1, self.axis)

        def exchange(slab: int, rows: Any) -> Any:
            return self.axis.exchange(rows)

        return join_parts(pipeline(cut_local(m, 0, count), [attend, exchange]), 0, self.axis)

    def update_columns(self, m: MSA, mask: Float[Array, "s i"]) -> MSA:
        """Column attention and transition, on some residues."""
        m = m + getattr(self, self.column_scope)(m, mask)
        return self.msa_transition(m)

    def residues_to_rows(self, m: MSA) -> MovedMSA:
        """From m split over residues to m split over rows."""
        return self.axis.all_to_all(m, split=0, concat=1)


_COLUMN_SCOPES: dict[ColumnAttention, str] = {
    MSAColumnAttention: "msa_column_attention",
    MSAColumnGlobalAttention: "msa_column_global_attention",
}


class OuterProductLastBlock(EvoformerBlock):
    """The monomer's order: the MSA track, then the outer product mean, then the pair track."""

    msa_sharded = 0

    def __call__(
        self, m: MSA, z: Pair, msa_mask: Float[Array, "rows n"], seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> tuple[MSA, Pair]:
        """(m, z) of the next block. `key` is None for no dropout."""
        msa_key, *pair_keys = split_key(key, 5)
        bias = self.msa_row_attention_with_pair_bias.bias(z, sharded=1)
        # Nothing needs these rows before the outer product is added: they travel while the MSA is computed.
        rows = self.columns_to_rows(z)
        m = self.attend_rows(m, bias, msa_mask, msa_key)
        outer = self.outer_product_mean
        masks = cut_local(self.axis.shard(msa_mask, 1), 1, len(rows))

        def update(slab: int, m: Any) -> Any:
            m = self.update_columns(m, masks[slab])
            return m, *outer.project(m, masks[slab])

        def exchange(slab: int, value: Any) -> Any:
            m, left, right = value
            return m, left, self.axis.gather(right, 1)

        residues = pipeline(cut_local(m, 1, len(rows)), [update, exchange])
        m = join_local([m for m, _, _ in residues], 1)
        right = join([right for _, _, right in residues], 1, self.axis)

        def add(slab: int, z: Any) -> Any:
            return z + outer.update(residues[slab][1], right, masks[slab], msa_mask)

        begun = self.begin(rows, seq_mask, first=add)
        return self.residues_to_rows(m), self.pair_track(begun, seq_mask, pair_keys)


class OuterProductFirstBlock(EvoformerBlock):
    """The multimer's order: the outer product mean, then both tracks, which no longer depend on each other."""

    msa_sharded = 1

    def __call__(
        self, m: MSA, z: Pair, msa_mask: Float[Array, "rows n"], seq_mask: Float[Array, " n"], key: PRNGKeyArray | None
    ) -> tuple[MSA, Pair]:
        """(m, z) of the next block. `key` is None for no dropout."""
        msa_key, *pair_keys = split_key(key, 5)
        rows = self.columns_to_rows(z)
        mask = self.axis.shard(msa_mask, 1)
        masks = cut_local(mask, 1, len(rows))
        outer = self.outer_product_mean
        left, right = outer.project(m, mask)
        lefts, right = cut_local(left, 1, len(rows)), self.axis.gather(right, 1)

        def add(slab: int, z: Any) -> Any:
            return z + outer.update(lefts[slab], right, masks[slab], msa_mask)

        # One slab's operands have no later slab to travel behind, and would only lie in memory beside the MSA's track.
        begun = self.begin(rows, seq_mask, first=add) if len(rows) > 1 else None
        rows = [z for z, _ in begun] if begun else [add(0, rows[0])]
        bias = self.msa_row_attention_with_pair_bias.bias(join_local(rows, 0), sharded=0)
        m = self.attend_rows(self.residues_to_rows(m), bias, msa_mask, msa_key)
        m = self.update_columns(m, mask)
        return m, self.pair_track(begun or self.begin(rows, seq_mask), seq_mask, pair_keys)


def split_key(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """`num` keys, or as many Nones when there is no dropout."""
    return [None] * num if key is None else list(jax.random.split(key, num))


def block_type(config: ModelConfig) -> type[EvoformerBlock]:
    """The order of a block's parts."""
    return OuterProductFirstBlock if config.outer_product_first else OuterProductLastBlock


def evoformer_stack(config: ModelConfig, execution: Execution) -> EvoformerBlock:
    """The main trunk's blocks, stacked (supplement, Algorithm 6)."""
    block = block_type(config)
    return stack(lambda: block(config.c_m, MSAColumnAttention, config, execution), config.evoformer_blocks)


def extra_msa_stack(config: ModelConfig, execution: Execution) -> EvoformerBlock:
    """The extra MSA stack's blocks, stacked (supplement, Algorithm 18)."""
    block = block_type(config)
    return stack(
        lambda: block(config.c_e, MSAColumnGlobalAttention, config, execution),
        config.extra_msa_blocks,
    )


def run_stack(
    blocks: EvoformerBlock,
    m: MSA,
    z: Pair,
    masks: tuple[Float[Array, "rows n"], Float[Array, " n"]],
    *,
    key: PRNGKeyArray | None,
    remat: Remat,
) -> tuple[MSA, Pair]:
    """(m, z) after all blocks of a stack.

    Args:
      masks: The MSA's mask and the residues'.
    """

    def body(block, carry, layer_key):
        return block(*carry, *masks, layer_key)

    return scan_blocks(blocks, body, (m, z), key=key, remat=remat)
