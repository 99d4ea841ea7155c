"""The weighted sum of all losses, and what to report of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fastfold_jax.config.losses import LossConfig
from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels
from fastfold_jax.losses import heads
from fastfold_jax.losses.center_of_mass import center_of_mass_loss
from fastfold_jax.losses.fape import all_atom_fape, backbone_fape
from fastfold_jax.losses.permutation import match_copies
from fastfold_jax.losses.reduce import resolution_counts
from fastfold_jax.losses.targets import Targets, make_targets, rename
from fastfold_jax.losses.torsions import angle_norm_loss, chi_loss
from fastfold_jax.losses.violations import Violations, find_violations, violation_metrics
from fastfold_jax.model.alphafold import FullOutputs, Outputs
from fastfold_jax.model.structure import StructureOutput
from parallel.axis import Axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LossReport:
    """One example's loss, taken apart.

    Attributes:
      total: [] the weighted sum.
      terms: Name -> [] each loss, unweighted.
      metrics: Name -> [] what is watched but not minimised.
    """

    total: Any
    terms: dict[str, Any]
    metrics: dict[str, Any]


# A GPU would round coordinates in products to TF32's 10 bits.
@jax.default_matmul_precision("highest")
def total_loss(
    outputs: Outputs,
    features: Features,
    labels: Labels,
    config: LossConfig,
    *,
    axis: Axis = Axis(),
    msa_sharded: int = 0,
) -> LossReport:
    """The loss of a prediction made with `Execution(outputs="full")` (AlphaFold 2 supplement, equation 7).

    Inside `shard_map` every device returns the same; take the gradient outside.

    Args:
      axis: The device axis that pairs are split along by rows.
      msa_sharded: Dimension of the MSA representation that is split, where `axis` has several devices.
    """
    full = outputs.full
    assert full is not None, "losses need Execution(outputs='full')"
    predicted_ca = outputs.atom_positions[:, ATOM37_INDEX["CA"]]
    targets = make_targets(features.aatype, *match_copies(features, labels, predicted_ca))
    violations = find_violations(
        full.structure.atom14_positions,
        full.structure.atom14_mask,
        (features.aatype, features.residue_index, features.asym_id),
        tolerance=config.violation_tolerance,
        clash_tolerance=config.clash_tolerance,
        axis=axis,
    )
    terms, weights = _structure_terms(full.structure, features, labels, targets, config, axis)
    terms["violation"], weights["violation"] = violations.loss(full.structure.atom14_mask), config.violation
    if config.interface is not None:
        terms["center_of_mass"] = center_of_mass_loss(
            predicted_ca, targets.ca_positions, targets.ca_mask, features.asym_id
        )
        weights["center_of_mass"] = config.center_of_mass
    head_terms, head_weights = _head_terms(outputs, full, targets, labels, config, axis)
    terms["masked_msa"] = _masked_msa(full, labels, axis, msa_sharded)
    terms |= head_terms
    weights |= head_weights | {"masked_msa": config.masked_msa}
    # A term of weight 0 is watched only: it must not turn the gradient into NaN, nor cost a backward pass.
    total = sum(weights[name] * term for name, term in terms.items() if weights[name])
    metrics = _metrics(outputs, full.structure, features, targets, violations)
    return LossReport(total=total, terms=terms, metrics=metrics)


def _structure_terms(
    structure: StructureOutput,
    features: Features,
    labels: Labels,
    targets: Targets,
    config: LossConfig,
    axis: Axis,
) -> tuple[dict[str, Array], dict[str, float]]:
    """FAPE and torsions, and their weights."""
    trajectory = structure.trajectory
    assert trajectory is not None
    side_chains = trajectory.side_chains
    same_chain = (axis.shard(features.asym_id, 0)[:, None] == features.asym_id[None, :]).astype(jnp.float32)
    backbone = backbone_fape(
        trajectory.backbone,
        targets.backbone,
        targets.backbone_mask,
        same_chain,
        config.backbone,
        labels.use_clamped_fape,
        axis,
    )
    renamed = rename(targets, features.aatype, structure.atom14_positions, axis)
    last_frames = jax.tree.map(lambda x: x[-1], side_chains.frames)
    terms = {
        "backbone_fape": jnp.mean(backbone),
        "side_chain_fape": all_atom_fape(
            (last_frames, structure.atom14_positions),
            (renamed.frames, renamed.atom14_positions),
            (targets.frames.mask, renamed.atom14_mask),
            config.side_chain,
            axis,
        ),
        "chi": chi_loss(side_chains.sin_cos, targets.torsions),
        "angle_norm": angle_norm_loss(side_chains.unnormalized_sin_cos, features.seq_mask),
    }
    weights = {
        "backbone_fape": 1.0 - config.side_chain_fraction,
        "side_chain_fape": config.side_chain_fraction,
        "chi": config.chi,
        "angle_norm": config.angle_norm,
    }
    if config.interface is not None:
        interface = backbone_fape(
            trajectory.backbone,
            targets.backbone,
            targets.backbone_mask,
            1.0 - same_chain,
            config.interface,
            axis=axis,
        )
        terms["interface_fape"] = jnp.mean(interface)
        weights["interface_fape"] = 1.0 - config.side_chain_fraction
    return terms, weights


def _head_terms(
    outputs: Outputs, full: FullOutputs, targets: Targets, labels: Labels, config: LossConfig, axis: Axis
) -> tuple[dict[str, Array], dict[str, float]]:
    """The heads' losses that a structure decides, and their weights."""
    good = resolution_counts(labels.resolution, config.min_resolution, config.max_resolution).astype(jnp.float32)
    trajectory = full.structure.trajectory
    assert trajectory is not None
    terms = {
        "distogram": heads.distogram_loss(full.distogram, targets.beta_positions, targets.beta_mask, axis),
        "lddt": good
        * heads.lddt_loss(
            full.lddt, outputs.atom_positions[:, ATOM37_INDEX["CA"]], targets.ca_positions, targets.ca_mask
        ),
        "resolved": good * heads.resolved_loss(full.resolved, targets.atom_mask, outputs.atom_mask),
    }
    weights = {"distogram": config.distogram, "lddt": config.lddt, "resolved": config.resolved}
    if full.aligned_error is not None:
        terms["aligned_error"] = good * heads.aligned_error_loss(
            full.aligned_error,
            jax.tree.map(lambda x: x[-1], trajectory.backbone),
            targets.backbone,
            targets.backbone_mask,
            axis,
        )
        weights["aligned_error"] = config.aligned_error
    return terms, weights


def _masked_msa(full: FullOutputs, labels: Labels, axis: Axis, msa_sharded: int) -> Float[Array, ""]:
    """The masked MSA's loss from this device's part of the logits, behind whose rows templates may stand."""
    rows = full.masked_msa.shape[0] * (axis.size if msa_sharded == 0 else 1)

    def part(letters: Int[Array, "s n"] | Float[Array, "s n"]) -> Array:
        padded = jnp.pad(letters, ((0, rows - letters.shape[0]), (0, 0)))
        return axis.shard(padded, msa_sharded)

    return heads.masked_msa_loss(
        full.masked_msa, part(jnp.asarray(labels.true_msa, jnp.int32)), part(jnp.asarray(labels.bert_mask)), axis
    )


def _metrics(
    outputs: Outputs, structure: StructureOutput, features: Features, targets: Targets, violations: Violations
) -> dict[str, Array]:
    """lDDT-Cα of the prediction and its stereochemistry."""
    predicted_ca = outputs.atom_positions[:, ATOM37_INDEX["CA"]]
    score = heads.lddt(predicted_ca, targets.ca_positions, targets.ca_mask)
    known = targets.ca_mask
    broken = violation_metrics(
        violations,
        structure.atom14_positions,
        structure.atom14_mask,
        (features.aatype, features.residue_index, features.asym_id),
        features.seq_mask,
    )
    metrics = {f"violations/{name}": value for name, value in broken.items()}
    metrics["lddt_ca"] = jnp.sum(score * known) / jnp.maximum(jnp.sum(known), 1.0)
    metrics["plddt"] = outputs.mean_plddt
    return jax.lax.stop_gradient(metrics)
