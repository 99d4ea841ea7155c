"""AlphaFold 2 as one pure function: one pass, from features and the previous pass to structure and confidence."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig, MultimerConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.model import confidence, heads
from fastfold_jax.model.evoformer import split_key
from fastfold_jax.model.initial import draw
from fastfold_jax.model.recycling import Prev
from fastfold_jax.model.structure import StructureModule, StructureOutput
from fastfold_jax.model.trunk import Representations, Trunk


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FullOutputs:
    """What training and parity tests need beside `Outputs`.

    Attributes:
      representations: The trunk's.
      structure: The structure module's, trajectory included.
      distogram, aligned_error: [N, N, 64] logits; the latter None without a pTM head.
      lddt: [N, 50] logits.
      masked_msa: [S, N, letters] logits.
      resolved: [N, 37] logits.
    """

    representations: Representations
    structure: StructureOutput
    distogram: Any
    aligned_error: Any
    lddt: Any
    masked_msa: Any
    resolved: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """One pass's prediction. N counts padded residues, of which only those in `seq_mask` mean anything.

    Where a protein is split over devices, each has its rows of what is [N, N] and all of the rest.

    Attributes:
      atom_positions: [N, 37, 3] Å.
      atom_mask: [N, 37], 1 where the residue type has the atom.
      plddt: [N], 0 to 100.
      pae: [N, N] Å expected error of residue j when aligned on residue i, or None without a pTM head.
      ptm: Predicted TM-score, 0 to 1, or None without a pTM head.
      iptm: The same over interfaces, None unless a multimer.
      contact_probability: [N, N], that Cβ atoms are within 8 Å.
      ranking_confidence: What orders predictions: mean pLDDT (0 to 100), or 0.8 ipTM + 0.2 pTM of a multimer.
      mean_plddt: Over existing residues.
      change: Å, root mean square change of Cα distances against the previous pass.
      full: Everything else, where construction asked for it.
    """

    atom_positions: Any
    atom_mask: Any
    plddt: Any
    pae: Any
    ptm: Any
    iptm: Any
    contact_probability: Any
    ranking_confidence: Any
    mean_plddt: Any
    change: Any
    full: FullOutputs | None


class AlphaFold(nnx.Module):
    """The whole network; attribute names are DeepMind's scopes."""

    def __init__(self, config: ModelConfig, execution: Execution):
        self.evoformer = Trunk(config, execution)
        self.structure_module = StructureModule(config, execution)
        self.distogram_head = heads.DistogramHead(config, execution)
        self.masked_msa_head = heads.MaskedMsaHead(config, execution)
        self.predicted_lddt_head = heads.PredictedLDDTHead(config, execution)
        self.experimentally_resolved_head = heads.ExperimentallyResolvedHead(config, execution)
        self.predicted_aligned_error_head = (
            heads.PredictedAlignedErrorHead(config, execution) if config.ptm_head else None
        )
        self.is_complex = isinstance(config, MultimerConfig)
        self.execution = execution

    def __call__(self, features: Features, prev: Prev, key: PRNGKeyArray | None = None) -> tuple[Outputs, Prev]:
        """One pass (AlphaFold 2 supplement, Algorithm 2, the body of its loop). `key` is None for no dropout."""
        axis = self.execution.axis
        trunk_key, structure_key = split_key(key, 2)
        representations = self.evoformer(features, prev, trunk_key)
        # The structure module and the heads read rows of pairs; the trunk leaves columns.
        pair_rows = axis.all_to_all(representations.pair, split=0, concat=1)
        structure = self.structure_module(
            representations.single, pair_rows, features.aatype, features.seq_mask, structure_key
        )
        logits = {
            "distogram": self.distogram_head(pair_rows),
            "lddt": self.predicted_lddt_head(structure.single),
            "aligned_error": self.predicted_aligned_error_head and self.predicted_aligned_error_head(pair_rows),
        }
        outputs = self.reduce(features, prev, structure, logits)
        if self.execution.outputs == "full":
            full = FullOutputs(
                representations=representations,
                structure=structure,
                masked_msa=self.masked_msa_head(representations.msa),
                resolved=self.experimentally_resolved_head(representations.single),
                **logits,
            )
            outputs = dataclasses.replace(outputs, full=full)
        new_prev = Prev(
            pos=structure.atom_positions, msa_first_row=representations.msa_first_row, pair=representations.pair
        )
        return outputs, new_prev

    def reduce(self, features: Features, prev: Prev, structure: StructureOutput, logits: dict[str, Any]) -> Outputs:
        """Logits to what a user reads, inside the graph, so that no [N, N, 64] array leaves it."""
        axis, seq_mask = self.execution.axis, features.seq_mask
        plddt = confidence.predicted_lddt(logits["lddt"])
        mean_plddt = confidence.mean_predicted_lddt(plddt, seq_mask)
        ranking, pae, ptm, iptm = mean_plddt, None, None, None
        if logits["aligned_error"] is not None:
            breaks = jnp.asarray(heads.ALIGNED_ERROR_BREAKS)
            pae = confidence.predicted_aligned_error(logits["aligned_error"], breaks)
            ptm = confidence.predicted_tm_score(logits["aligned_error"], breaks, seq_mask, axis=axis)
            if self.is_complex:
                iptm = confidence.predicted_tm_score(
                    logits["aligned_error"], breaks, seq_mask, asym_id=features.asym_id, axis=axis
                )
                ranking = confidence.complex_ranking_confidence(ptm, iptm)
        contacts = confidence.contact_probability(logits["distogram"], jnp.asarray(heads.DISTOGRAM_EDGES))
        return Outputs(
            atom_positions=structure.atom_positions,
            atom_mask=structure.atom_mask,
            plddt=plddt,
            pae=pae,
            ptm=ptm,
            iptm=iptm,
            contact_probability=contacts,
            ranking_confidence=ranking,
            mean_plddt=mean_plddt,
            change=confidence.ca_distance_change(prev.pos, structure.atom_positions, seq_mask),
            full=None,
        )


Apply = Callable[..., tuple[Outputs, Prev]]


def make_apply(config: ModelConfig, execution: Execution) -> Apply:
    """The network as a pure function `apply(state, features, prev, key=None) -> (outputs, prev)`: one pass."""
    graphdef = nnx.graphdef(AlphaFold(config, execution))

    def apply(
        state: nnx.State, features: Features, prev: Prev, key: PRNGKeyArray | None = None
    ) -> tuple[Outputs, Prev]:
        # Without this, float32 products on recent NVIDIA GPUs would keep ten bits of mantissa (TF32).
        with jax.default_matmul_precision("highest" if execution.precision == "float32" else "default"):
            return nnx.merge(graphdef, state)(features, prev, key)

    return apply


def abstract_state(config: ModelConfig) -> nnx.State:
    """Shapes and types of all parameters, with no memory behind them."""
    return nnx.state(AlphaFold(config, Execution()))


def init_state(config: ModelConfig, seed: int, *, zero_final: bool = True) -> nnx.State:
    """Parameters of an untrained network; see `initial.draw`."""
    return draw(abstract_state(config), seed, zero_final=zero_final)
