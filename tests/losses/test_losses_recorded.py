"""One recorded training pass of DeepMind's code: losses, violations, gradient norms, small gradients, against ours."""

import jax
import numpy as np
import pytest
import recorded

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.losses import PTM
from fastfold_jax.config.presets import preset
from fastfold_jax.data.labels import Labels
from fastfold_jax.losses.targets import make_targets, rename
from fastfold_jax.losses.total import total_loss
from fastfold_jax.losses.violations import find_violations
from fastfold_jax.model.alphafold import make_apply
from fastfold_jax.model.recycling import init_prev
from fastfold_jax.params import store
from fastfold_jax.params.fit import storage

NAME = "loss_model_1_ptm"
CONFIG = preset("model_1_ptm", evoformer_blocks=2, extra_msa_blocks=2, fill_undefined_torsions=True)
FLOAT32 = Execution(precision="float32", outputs="full")
# The released configuration: violations and resolved atoms count, the latter as in fine-tuning.
TERMS = {
    "structure_module/sidechain_fape": "side_chain_fape",
    "structure_module/chi_loss": "chi",
    "structure_module/angle_norm_loss": "angle_norm",
    "distogram/loss": "distogram",
    "masked_msa/loss": "masked_msa",
    "predicted_lddt/loss": "lddt",
    "predicted_aligned_error/loss": "aligned_error",
    "experimentally_resolved/loss": "resolved",
}


def load(kind: str) -> dict[str, np.ndarray]:
    with np.load(recorded.ROOT / f"{NAME}.{kind}.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def example():
    feats = load("feats")
    one = {name: value[0] for name, value in feats.items()}
    labels = Labels(
        atom_positions=one["all_atom_positions"][None],
        atom_mask=one["all_atom_mask"][None],
        resolution=one["resolution"],
        use_clamped_fape=one["use_clamped_fape"],
        true_msa=one["true_msa"].astype(np.int8),
        bert_mask=one["bert_mask"],
    )
    return recorded._monomer(feats, 0), labels


@pytest.fixture(scope="module")
def differentiated(example, tmp_path_factory):
    features, labels = example
    path = tmp_path_factory.mktemp("params") / "params.npz"
    np.savez(path, **recorded.parameters(NAME))
    state = store.load(path, CONFIG)
    apply = make_apply(CONFIG, FLOAT32)

    def loss(state, features, labels):
        outputs, _ = apply(state, features, init_prev(len(features.aatype), CONFIG, FLOAT32))
        report = total_loss(outputs, features, labels, PTM)
        return report.total, (report, outputs)

    (_, (report, outputs)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(state, features, labels)
    return report, outputs, gradient


def test_every_loss(differentiated):
    report, _, _ = differentiated
    expected = load("out")
    ours = {theirs: float(report.terms[name]) for theirs, name in TERMS.items()}
    ours["total_loss"] = float(report.total)
    found = {name: abs(value / expected[name] - 1) for name, value in ours.items()}
    assert max(found.values()) < 1e-4, found


@jax.jit
def violations_of(positions, mask, residues):
    found = find_violations(positions, mask, residues, tolerance=12.0, clash_tolerance=1.5)
    return found, found.per_residue()


@jax.jit
def renamed_labels(aatype, positions, mask, predicted):
    return rename(make_targets(aatype, positions, mask), aatype, predicted)


def test_violations_and_renaming(differentiated, example):
    report, outputs, _ = differentiated
    features, labels = example
    expected = load("out")
    structure = outputs.full.structure
    residues = (features.aatype, features.residue_index, features.asym_id)
    violations, per_residue = violations_of(structure.atom14_positions, structure.atom14_mask, residues)
    prefix = "structure_module/violations/"
    for name, ours in {
        "between_residues/bonds_c_n_loss_mean": violations.bonds.c_n,
        "between_residues/angles_ca_c_n_loss_mean": violations.bonds.ca_c_n,
        "between_residues/angles_c_n_ca_loss_mean": violations.bonds.c_n_ca,
        "between_residues/connections_per_residue_violation_mask": violations.bonds.per_residue,
        "between_residues/clashes_per_atom_loss_sum": violations.clashes.loss,
        "between_residues/clashes_per_atom_clash_mask": violations.clashes.per_atom,
        "within_residues/per_atom_loss_sum": violations.within.loss,
        "within_residues/per_atom_violations": violations.within.per_atom,
        "total_per_residue_violations_mask": per_residue,
    }.items():
        # Coordinates themselves agree to 1e-4 Å; of an atom's overlaps there are several, whose errors add up.
        bound = 1e-3 if name.endswith("loss_sum") else 1e-4
        np.testing.assert_allclose(ours, expected[prefix + name], rtol=1e-4, atol=bound, err_msg=name)
    metrics = {"extreme_ca_ca": "extreme_ca_ca_distance", "bonds": "between_residue_bond"}
    metrics |= {"clashes": "between_residue_clash", "within": "within_residue", "any": "per_residue"}
    for ours, theirs in metrics.items():
        np.testing.assert_allclose(
            report.metrics[f"violations/{ours}"], expected[f"structure_module/metrics/violations_{theirs}"], atol=1e-6
        )
    renamed = renamed_labels(features.aatype, labels.atom_positions[0], labels.atom_mask[0], structure.atom14_positions)
    for name, ours in (("positions", renamed.atom14_positions), ("exists", renamed.atom14_mask)):
        np.testing.assert_allclose(ours, expected[f"structure_module/renamed_atom14_gt_{name}"], atol=1e-5)


def test_every_gradient(differentiated):
    _, _, gradient = differentiated
    flat = flatten(gradient)
    norms, small = load("grad_norms"), load("grads")
    assert set(flat) == set(norms)
    largest = max(norms.values())
    # What has no gradient but rounding: a bias before a softmax, and the like.
    found = {k: abs(np.linalg.norm(flat[k].astype(np.float64)) - v) / max(v, 1e-6 * largest) for k, v in norms.items()}
    assert max(found.values()) < 1e-3, sorted(found.items(), key=lambda item: -item[1])[:5]
    for name, expected in small.items():
        bound = 1e-3 * np.max(np.abs(expected)) + 1e-6 * largest
        np.testing.assert_allclose(flat[name], expected, rtol=0, atol=bound, err_msg=name)


def flatten(gradient) -> dict[str, np.ndarray]:
    """A gradient under DeepMind's names: the layout only rearranges, so it maps gradients as it maps parameters."""
    stored = storage(CONFIG)
    leaves = dict(zip(stored.leaves, map(np.asarray, jax.tree.leaves(gradient)), strict=True))
    flat = {}
    for entry in stored.entries:
        flat |= dict(zip(entry.keys, entry.transform.to_file([leaves[leaf] for leaf in entry.leaves]), strict=True))
    return flat
