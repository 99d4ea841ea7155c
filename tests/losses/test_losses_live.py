"""Each loss near the native structure, value and gradient, against the functions that `alphafold-colabfold` carries.

Native coordinates are moved by 0.3, 1 and 3 Å, so that errors lie on either side of clamps, tolerances and bins, and
symmetric side chains under either of their names.
"""

import functools

import jax
import jax.numpy as jnp
import near_native
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fastfold_jax.config import losses as weights
from fastfold_jax.geometry import Rigid
from fastfold_jax.losses import heads
from fastfold_jax.losses.fape import all_atom_fape, backbone_fape
from fastfold_jax.losses.targets import make_targets, rename
from fastfold_jax.losses.torsions import angle_norm_loss, chi_loss
from fastfold_jax.losses.violations import find_violations

pytest.importorskip("alphafold.model.folding")
import haiku as hk
import reference
from alphafold.common import residue_constants
from alphafold.model import all_atom, folding, folding_multimer, modules, r3
from alphafold.model.geometry import Rigid3Array, Rot3Array, Vec3Array

pytestmark = pytest.mark.usefixtures("quick_compiles")

NOISE = (0.3, 1.0, 3.0)
GIVEN = ("clamped", "good", "predicted", "affine")
"""What no gradient is asked of."""
MONOMER = weights.FINE_TUNING


@functools.cache
def known(copies: int = 1) -> near_native.Native:
    return near_native.native(copies)


@functools.cache
def settings(name: str):
    return reference.config(name).heads


def agree(ours, theirs, cases, *, value=1e-4, gradient=1e-3, floor=1e-6):
    """Values to 1e-4 and gradients to 1e-3 of their largest element; both must depend on something.

    Each is compiled once for all cases, which are arguments by what they are called.
    """
    ours, theirs = (jax.jit(jax.value_and_grad(loss)) for loss in (ours, theirs))
    for case, arguments in cases.items():
        ours_value, ours_gradient = ours(arguments)
        theirs_value, theirs_gradient = theirs(arguments)
        np.testing.assert_allclose(ours_value, theirs_value, rtol=value, atol=floor, err_msg=case)
        differentiable = {name: leaf for name, leaf in theirs_gradient.items() if name not in GIVEN}
        largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in differentiable.values())
        assert largest > 0, case
        for name, expected in differentiable.items():
            bound = gradient * float(jnp.max(jnp.abs(expected))) + 1e-6 * largest
            np.testing.assert_allclose(ours_gradient[name], expected, rtol=0, atol=bound, err_msg=f"{case} {name}")


def pick(arrays, *names):
    return {name: jnp.asarray(arrays[name]) for name in names}


def moved(native, *names):
    """What a prediction holds at each distance from the native structure."""
    return {f"{noise} Å": pick(near_native.predictions(native, noise), *names) for noise in NOISE}


def their_batch(native: near_native.Native) -> dict[str, jax.Array]:
    """The features of a known structure that DeepMind's monomer reads, made by its own functions where it has them."""
    aatype = jnp.asarray(native.aatype)
    targets = make_targets(aatype, jnp.asarray(native.positions), jnp.asarray(native.mask))
    frames = all_atom.atom37_to_frames(aatype[None], native.positions[None], native.mask[None])
    matrices = jnp.asarray(all_atom.RENAMING_MATRICES)[aatype]
    swapped = jnp.einsum("nad,nab->nbd", targets.atom14_positions, matrices, precision="highest")
    torsions = all_atom.atom37_to_torsion_angles(aatype[None], native.positions[None], native.mask[None])
    chi = torsions["torsion_angles_sin_cos"][0, :, 3:]
    one = {name: value[0] for name, value in frames.items()}
    backbone = one["rigidgroups_gt_frames"][:, 0]
    known_frame = np.asarray(one["rigidgroups_gt_exists"][:, 0])[:, None, None] > 0
    rotation = np.where(known_frame, np.asarray(backbone[:, :9]).reshape(-1, 3, 3), np.eye(3))
    quaternion = np.roll(Rotation.from_matrix(rotation).as_quat(), 1, axis=-1)  # to scalar first
    return {
        **reference._atom_tables(aatype),
        **one,
        "aatype": aatype,
        "residue_index": jnp.asarray(native.residue_index),
        "seq_mask": jnp.ones(len(aatype)),
        "all_atom_positions": jnp.asarray(native.positions),
        "all_atom_mask": jnp.asarray(native.mask),
        "atom14_gt_positions": targets.atom14_positions,
        "atom14_gt_exists": targets.atom14_mask,
        "atom14_alt_gt_positions": swapped,
        "atom14_alt_gt_exists": jnp.einsum("na,nab->nb", targets.atom14_mask, matrices),
        "atom14_atom_is_ambiguous": jnp.asarray(near_native_ambiguous())[aatype],
        "chi_angles": jnp.arctan2(chi[..., 0], chi[..., 1]),
        "chi_mask": torsions["torsion_angles_mask"][0, :, 3:],
        "backbone_affine_tensor": jnp.concatenate([jnp.asarray(quaternion, jnp.float32), backbone[:, 9:]], axis=-1),
        "backbone_affine_mask": one["rigidgroups_gt_exists"][:, 0],
        "pseudo_beta": targets.beta_positions,
        "pseudo_beta_mask": targets.beta_mask,
        "resolution": jnp.float32(2.0),
    }


def near_native_ambiguous() -> np.ndarray:
    """[21, 14] from DeepMind's renaming matrices: atoms that a swap moves."""
    return 1.0 - np.stack([np.diag(matrix) for matrix in all_atom.RENAMING_MATRICES]).astype(np.float32)


@functools.cache
def batch():
    with jax.ensure_compile_time_eval():  # kept over tests, though asked for while one is traced
        return their_batch(known())


@functools.cache
def targets(copies: int = 1):
    native = known(copies)
    with jax.ensure_compile_time_eval():
        return make_targets(jnp.asarray(native.aatype), jnp.asarray(native.positions), jnp.asarray(native.mask))


def their_rigids(rotation, translation) -> r3.Rigids:
    entries = [rotation[..., i, j] for i in range(3) for j in range(3)]
    return r3.Rigids(r3.Rots(*entries), r3.Vecs(*(translation[..., i] for i in range(3))))


def test_backbone_fape():
    cases = {
        f"{noise}, clamped: {clamped}": {**arguments, "clamped": jnp.float32(clamped)}
        for noise, arguments in moved(known(), "affines").items()
        for clamped in (1, 0)
    }
    everything = jnp.ones((len(known().aatype),) * 2)

    def ours(x):
        path = near_native.trajectory(x["affines"])
        errors = backbone_fape(
            path, targets().backbone, targets().backbone_mask, everything, MONOMER.backbone, x["clamped"]
        )
        return jnp.mean(errors)

    def theirs(x):
        found = {"loss": 0.0}
        # Ours takes quaternions of any length.
        length = jnp.linalg.norm(x["affines"][..., :4], axis=-1, keepdims=True)
        value = {"traj": jnp.concatenate([x["affines"][..., :4] / length, x["affines"][..., 4:]], axis=-1)}
        folding.backbone_loss(
            found, {**batch(), "use_clamped_fape": x["clamped"]}, value, settings("model_1_ptm").structure_module
        )
        return found["loss"]

    agree(ours, theirs, cases)


def test_renaming_and_side_chain_fape():
    cases = moved(known(), "rotations", "translations", "atom14")
    aatype = jnp.asarray(known().aatype)
    both = jax.jit(lambda x: (rename(targets(), aatype, x), folding.compute_renamed_ground_truth(batch(), x)))
    for noise, arguments in cases.items():
        renamed, swapped = both(arguments["atom14"])
        np.testing.assert_allclose(
            renamed.atom14_positions, swapped["renamed_atom14_gt_positions"], atol=1e-5, err_msg=noise
        )
        np.testing.assert_array_equal(renamed.atom14_mask, swapped["renamed_atom14_gt_exists"], err_msg=noise)

    def ours(x):
        found = rename(targets(), aatype, x["atom14"])
        frames = Rigid(rotation=x["rotations"], translation=x["translations"])
        return all_atom_fape(
            (frames, x["atom14"]),
            (found.frames, found.atom14_positions),
            (targets().frames.mask, found.atom14_mask),
            MONOMER.side_chain,
        )

    def theirs(x):
        value = {
            "sidechains": {
                "frames": their_rigids(x["rotations"][None], x["translations"][None]),
                "atom_pos": r3.vecs_from_tensor(x["atom14"][None]),
            },
            **folding.compute_renamed_ground_truth(batch(), x["atom14"]),
        }
        return folding.sidechain_loss(batch(), value, settings("model_1_ptm").structure_module)["loss"]

    agree(ours, theirs, cases)


def test_some_symmetric_side_chains_are_renamed():
    """The structure whose own names are swapped must be renamed back, and only where names are ambiguous."""
    from fastfold_jax.losses.renaming import swap_is_better, swap_names

    aatype = jnp.asarray(known().aatype)
    positions, mask = targets().atom14_positions, targets().atom14_mask
    swapped = swap_names(aatype, positions)
    better = np.asarray(swap_is_better(aatype, positions, mask, swapped))
    ambiguous = np.any((near_native_ambiguous()[known().aatype] * np.asarray(mask)) > 0, axis=1)
    assert ambiguous.sum() >= 5
    np.testing.assert_array_equal(better, ambiguous)
    assert not np.any(swap_is_better(aatype, positions, mask, positions))


def test_torsions():
    cases = moved(known(), "sin_cos", "unnormalized")
    mask = jnp.ones(len(known().aatype))

    def ours(x):
        return 0.5 * chi_loss(x["sin_cos"], targets().torsions) + 0.01 * angle_norm_loss(x["unnormalized"], mask)

    def theirs(x):
        found = {"loss": 0.0}
        angles = {"angles_sin_cos": x["sin_cos"], "unnormalized_angles_sin_cos": x["unnormalized"]}
        folding.supervised_chi_loss(found, batch(), {"sidechains": angles}, settings("model_1_ptm").structure_module)
        return found["loss"]

    agree(ours, theirs, cases)


def their_violations(found, angle, exists):
    between = found["between_residues"]
    atoms = jnp.sum(between["clashes_per_atom_loss_sum"] + found["within_residues"]["per_atom_loss_sum"])
    others = between["bonds_c_n_loss_mean"] + between["angles_c_n_ca_loss_mean"]
    return others + angle["between_residues"]["angles_ca_c_n_loss_mean"] + atoms / (1e-6 + jnp.sum(exists))


@pytest.mark.parametrize("copies", [1, 2])
def test_violations(copies, monkeypatch):
    native = known(copies)
    cases = moved(native, "atom14")
    exists = jnp.asarray(native.exists)
    own = list(residue_constants.between_res_bond_length_stddev_c_n)
    swapped = [residue_constants.between_res_cos_angles_ca_c_n[1]] * 2

    def find(atom14):
        if copies == 1:
            config = settings("model_1_ptm").structure_module
            return folding.find_structural_violations(batch(), atom14, config)
        config = settings("model_1_multimer_v3").structure_module
        positions = Vec3Array.from_array(atom14)
        aatype, index, asym_id = (jnp.asarray(x) for x in native.residues)
        return folding_multimer.find_structural_violations(aatype, index, exists, positions, config, asym_id)

    def theirs(x):
        found = find(x["atom14"])
        # What the copy at hand takes for the angle's deviation is the bond's; see `bond_violations`.
        monkeypatch.setattr(residue_constants, "between_res_bond_length_stddev_c_n", swapped)
        angle = find(x["atom14"])
        monkeypatch.setattr(residue_constants, "between_res_bond_length_stddev_c_n", own)
        return their_violations(found, angle, exists)

    def ours(x):
        residues = tuple(jnp.asarray(part) for part in native.residues)
        return find_violations(x["atom14"], exists, residues, tolerance=12.0, clash_tolerance=1.5).loss(exists)

    agree(ours, theirs, cases)


def head_loss(kind, section: str, value, features):
    """A head's loss, which needs no parameters."""
    config = reference.config("model_1_ptm")
    run = hk.without_apply_rng(
        hk.transform(lambda value, features: kind(config.heads[section], config.global_config).loss(value, features))
    )
    return run.apply({}, value, features)["loss"]


def logits(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_heads_that_judge_the_structure():
    num_res = len(known().aatype)
    of_heads = {"lddt": logits(0, num_res, 50), "error": logits(1, num_res, num_res, 64)}
    of_heads["resolved"] = logits(2, num_res, 37)
    cases = {
        f"{noise}, of known resolution: {good}": {
            **of_heads,
            "predicted": near_native.atom37(known(), arrays["atom14"]),
            "affine": arrays["affines"][-1],
            "good": jnp.float32(good),
        }
        for noise, arrays in moved(known(), "atom14", "affines").items()
        for good in (1, 0)
    }

    def ours(x):
        lddt = heads.lddt_loss(x["lddt"], x["predicted"][:, 1], targets().ca_positions, targets().ca_mask)
        frames = near_native.trajectory(x["affine"])
        error = heads.aligned_error_loss(x["error"], frames, targets().backbone, targets().backbone_mask)
        resolved = heads.resolved_loss(x["resolved"], targets().atom_mask, batch()["atom37_atom_exists"])
        # What is filtered by resolution is filtered where the terms are summed; 1e-3 keeps a gradient here.
        return (x["good"] + 1e-3) * (lddt + 2 * error + 3 * resolved)

    def theirs(x):
        def total(features):
            structure = {"final_atom_positions": x["predicted"], "final_affines": x["affine"]}
            lddt = {"structure_module": structure, "predicted_lddt": {"logits": x["lddt"]}}
            error = {"breaks": jnp.asarray(heads.ALIGNED_ERROR_BREAKS), "logits": x["error"]}
            error = {"structure_module": structure, "predicted_aligned_error": error}
            resolved = {"logits": x["resolved"]}
            return (
                head_loss(modules.PredictedLDDTHead, "predicted_lddt", lddt, features)
                + 2 * head_loss(modules.PredictedAlignedErrorHead, "predicted_aligned_error", error, features)
                + 3 * head_loss(modules.ExperimentallyResolvedHead, "experimentally_resolved", resolved, features)
            )

        resolution = jnp.where(x["good"] > 0, 2.0, 0.0)
        return total({**batch(), "resolution": resolution}) + 1e-3 * total({**batch(), "resolution": jnp.float32(2.0)})

    agree(ours, theirs, cases)


def test_distogram_and_masked_msa():
    num_res = len(known().aatype)
    rng = np.random.default_rng(0)
    true_msa = jnp.asarray(rng.integers(0, 22, (5, num_res)))
    hidden = jnp.asarray(rng.random((5, num_res)) < 0.15, jnp.float32)
    cases = {"": {"distogram": logits(0, num_res, num_res, 64), "msa": logits(1, 5, num_res, 23)}}

    def ours(x):
        distogram = heads.distogram_loss(x["distogram"], targets().beta_positions, targets().beta_mask)
        return distogram + heads.masked_msa_loss(x["msa"], true_msa, hidden)

    def theirs(x):
        distogram = modules._distogram_log_loss(x["distogram"], jnp.asarray(heads.DISTOGRAM_EDGES), batch(), 64)["loss"]
        features = {**batch(), "true_msa": true_msa, "bert_mask": hidden}
        return distogram + head_loss(modules.MaskedMsaHead, "masked_msa", {"logits": x["msa"]}, features)

    agree(ours, theirs, cases)


def test_multimer_backbone_within_and_between_chains():
    native = known(2)
    cases = moved(native, "affines")
    same = jnp.asarray(native.asym_id[:, None] == native.asym_id[None], jnp.float32)
    config = settings("model_1_multimer_v3").structure_module
    ours_terms = weights.MULTIMER
    true = targets(2)

    def ours(x):
        path = near_native.trajectory(x["affines"])
        within = backbone_fape(path, true.backbone, true.backbone_mask, same, ours_terms.backbone)
        between = backbone_fape(path, true.backbone, true.backbone_mask, 1 - same, ours_terms.interface)
        return jnp.mean(within) + 2 * jnp.mean(between)

    def theirs(x):
        path = near_native.trajectory(x["affines"])
        as_theirs = lambda frame: Rigid3Array(  # noqa: E731
            Rot3Array.from_array(frame.rotation), Vec3Array.from_array(frame.translation)
        )
        total = 0.0
        for factor, pair_mask, section in ((1, same, "intra_chain_fape"), (2, 1 - same, "interface_fape")):
            loss, _ = folding_multimer.backbone_loss(
                as_theirs(true.backbone),
                true.backbone_mask,
                true.backbone_mask,
                as_theirs(path),
                config[section],
                pair_mask,
            )
            total += factor * loss
        return total

    agree(ours, theirs, cases)
