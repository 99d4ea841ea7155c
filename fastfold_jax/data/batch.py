"""The typed batch: everything one pass of the model reads about a protein."""

import dataclasses
from typing import Any

import jax

# A leaf is a NumPy array on the host and a JAX array, tracer, ShapeDtypeStruct or sharding once JAX maps over the
# batch, so no single array type describes it; the shapes are in the class's docstring.
Leaf = Any

MSA_CHANNELS = 49
"""Channels of `Features.msa_feat`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """One set of sampled features; monomers and multimers alike.

    N residues, S clusters, E extra rows, T templates (0 for a model without templates). Letters follow DeepMind's
    order: ``ARNDCQEGHILKMFPSTWYV`` = 0..19, X = 20, gap = 21, mask = 22. Chain ids start at 1 and are 0 in padding.
    With ensembles the ``msa_*`` and ``extra_*`` leaves have one leading axis more.

    Attributes:
        aatype: [N] int32, 0..20.
        residue_index: [N] int32; restarts at each chain for multimers, jumps by 200 for a monomer on a complex.
        asym_id: [N] int32, which chain.
        entity_id: [N] int32, which distinct sequence.
        sym_id: [N] int32, which copy of that sequence.
        seq_mask: [N] float32, 1 where there is a residue.
        msa_feat: [S, N, 49] float32: 23 one-hot letters (after masking), has_deletion, deletion_value,
            23 cluster profile, cluster deletion mean (AlphaFold 2 supplement, table 1).
        msa_mask: [S, N] float32.
        extra_msa: [E, N] int8, 0..22.
        extra_deletion_value: [E, N] float32, atan(d / 3) * 2 / pi of the deletion count d; has_deletion is
            ``value > 0``.
        extra_msa_mask: [E, N] float32.
        template_aatype: [T, N] int32, 0..21 (gap where nothing is aligned).
        template_all_atom_positions: [T, N, 37, 3] float32, Å.
        template_all_atom_mask: [T, N, 37] float32.
        template_mask: [T] float32, 0 for templates that are padding.
    """

    aatype: Leaf
    residue_index: Leaf
    asym_id: Leaf
    entity_id: Leaf
    sym_id: Leaf
    seq_mask: Leaf
    msa_feat: Leaf
    msa_mask: Leaf
    extra_msa: Leaf
    extra_deletion_value: Leaf
    extra_msa_mask: Leaf
    template_aatype: Leaf
    template_all_atom_positions: Leaf
    template_all_atom_mask: Leaf
    template_mask: Leaf
