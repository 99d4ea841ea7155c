"""The typed training example: what the losses compare a prediction with, and the batch that the loader yields."""

import dataclasses
from typing import Any

import jax

from fastfold_jax.data.batch import Features

# As in `batch`: a NumPy array on the host, whatever JAX maps over the batch with later.
Leaf = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """The known structure of one (cropped, padded) example. Residue types, numbers and chains are in its `Features`.

    N residues, S clusters, K copies: for each residue, where the same residue lies in each copy of its chain's entity,
    so that chains of equal sequence can be matched to the prediction even where another copy is outside the crop. The
    residue's own chain is copy ``sym_id - 1``. K is 1 for single chains; copies that do not exist have mask 0.

    Attributes:
        atom_positions: [K, N, 37, 3] float32, Å; zeros where unknown.
        atom_mask: [K, N, 37] float32, 1 where an atom is known.
        resolution: [] float32, Å; 0 where there is none (NMR, self-distillation), which leaves out the losses of
            confidence and of experimentally resolved atoms.
        use_clamped_fape: [] float32, 1 to clamp the backbone's frame aligned point error, 0 not to; the same for all
            examples of a step (AlphaFold 2 supplement, 1.11.5: of mini-batches 9 in 10).
        true_msa: [S, N] int8, the clusters' letters 0..22 before masking, of the last pass.
        bert_mask: [S, N] float32, 1 where masking touched them.
    """

    atom_positions: Leaf
    atom_mask: Leaf
    resolution: Leaf
    use_clamped_fape: Leaf
    true_msa: Leaf
    bert_mask: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """B examples of one process, of equal shape, with the features of P = most recycles + 1 passes.

    Attributes:
        features: leaves [B, P, ...]. The last pass is always the one at P - 1, which labels and gradients belong to;
            with R recycles the passes before P - 1 - R are unused, and may be zeros.
        labels: leaves [B, ...].
        num_recycles: [] int32, R, from 0 to P - 1; the same for all examples and on all hosts.
    """

    features: Features
    labels: Labels
    num_recycles: Leaf
