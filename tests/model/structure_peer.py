"""The peer's structure modules, monomer and multimer, behind one form of parameters, inputs and outputs."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from alphafold.model import config as peer_config
from alphafold.model import folding, folding_multimer, quat_affine, r3
from alphafold.model import geometry as peer_geometry

from fastfold_jax import geometry
from fastfold_jax.constants import atoms
from fastfold_jax.geometry import Rigid

IPA = "invariant_point_attention"


def _to_monomer_attention(ours: dict) -> dict:
    """Attention parameters in the order of the monomer files: kept apart from the loader, as a second opinion."""

    def points(name):
        x = ours[name, "point_projection"]
        split = {k: v.reshape(*v.shape[:-1], 3, -1) for k, v in x.items()}
        return {k: np.moveaxis(v, -2, -3) for k, v in split.items()}  # [c, 3, h, p]

    flatten = lambda k, v: v.reshape(v.shape[0], -1) if k == "weights" else v.reshape(-1)  # noqa: E731
    q, k, v = (ours[f"{x}_scalar_projection",] for x in "qkv")
    qp, kp, vp = (points(f"{x}_point_projection") for x in "qkv")
    kinds = ("weights", "bias")
    return {
        "q_scalar": {x: flatten(x, q[x]) for x in kinds},
        "kv_scalar": {x: flatten(x, np.concatenate([k[x], v[x]], axis=-1)) for x in kinds},
        "q_point_local": {x: flatten(x, qp[x]) for x in kinds},
        "kv_point_local": {x: flatten(x, np.concatenate([kp[x], vp[x]], axis=-1)) for x in kinds},
    }


def to_haiku(flat: dict[tuple[str, ...], np.ndarray], root: str, *, monomer: bool) -> dict[str, dict[str, np.ndarray]]:
    """Our parameters, by path, as the peer's Haiku parameters below `root`."""
    modules: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for path, value in flat.items():
        modules.setdefault(path[:-1], {})[path[-1]] = np.asarray(value)
    if monomer:
        parents = {path[: path.index(IPA) + 1] if IPA in path else () for path in modules} if root != IPA else {()}
        for parent in {p for p in parents if p or root == IPA}:
            attention = {path[len(parent) :]: modules[path] for path in list(modules) if path[: len(parent)] == parent}
            moved = [path for path in attention if path and path[0].endswith(("scalar_projection", "point_projection"))]
            theirs = _to_monomer_attention({path: attention[path] for path in moved})
            for path in moved:
                del modules[(*parent, *path)]
            modules |= {(*parent, name): value for name, value in theirs.items()}
        modules = {
            tuple("affine_update" if part == "rigid" else part for part in path if part != "quat_rigid"): value
            for path, value in modules.items()
        }
    return {"/".join((root, *path)): value for path, value in modules.items()}


def _config(name: str, layers: int, sizes: dict[str, int]):
    config = peer_config.model_config(name).model
    config.global_config.zero_init = False
    config.global_config.deterministic = True
    module = config.heads.structure_module
    module.num_layer = layers
    module.num_channel = sizes["c_s"]
    module.sidechain.num_channel = sizes["c_sidechain"]
    module.num_head = sizes["ipa_heads"]
    module.num_scalar_qk = module.num_scalar_v = sizes["ipa_scalars"]
    module.num_point_qk, module.num_point_v = sizes["ipa_query_points"], sizes["ipa_value_points"]
    return module, config.global_config


def attention(name: str, sizes: dict[str, int], *, monomer: bool):
    """`(haiku parameters, single, pair, mask, frames' quaternions [i, 4] and translations) -> update`."""
    config, shared = _config(name, 1, sizes)

    def forward(single, pair, mask, quaternion, translation):
        if monomer:
            affine = quat_affine.QuatAffine(quaternion, translation, unstack_inputs=True)
            return folding.InvariantPointAttention(config, shared)(single, pair, mask[:, None], affine)
        rigid = peer_geometry.Rigid3Array(
            peer_geometry.Rot3Array.from_array(geometry.rotation_from_quaternion(quaternion)),
            peer_geometry.Vec3Array.from_array(translation),
        )
        return folding_multimer.InvariantPointAttention(config, shared)(single, pair, mask[:, None], rigid)

    return hk.without_apply_rng(hk.transform(forward)).apply


def structure(name: str, layers: int, sizes: dict[str, int], *, monomer: bool):
    """`(haiku parameters, single, pair, aatype, mask) -> outputs by name`."""
    config, shared = _config(name, layers, sizes)

    def run_monomer(representations, batch):
        out = folding.StructureModule(config, shared)(representations, batch, is_training=False)
        side_chains, trajectory = out["sidechains"], out["traj"]
        return {
            "single": out["representations"]["structure_module"],
            "rotation": geometry.rotation_from_quaternion(trajectory[..., :4]),
            "translation": trajectory[..., 4:],
            "sin_cos": side_chains["angles_sin_cos"],
            "unnormalized_sin_cos": side_chains["unnormalized_angles_sin_cos"],
            "atom14": r3.vecs_to_tensor(side_chains["atom_pos"]),
            "frames": r3.rigids_to_tensor_flat12(side_chains["frames"]),
            "positions": out["final_atom_positions"],
            "mask": out["final_atom_mask"],
        }

    def run_multimer(representations, batch):
        module = folding_multimer.StructureModule(config, shared)
        out = module(representations, batch, is_training=False, compute_loss=True)
        side_chains, frames = out["sidechains"], out["sidechains"]["frames"]
        return {
            "single": out["act"],
            "rotation": out["traj"][..., :3],
            "translation": out["traj"][..., 3],
            "sin_cos": side_chains["angles_sin_cos"],
            "unnormalized_sin_cos": side_chains["unnormalized_angles_sin_cos"],
            "atom14": side_chains["atom_pos"],
            "frames": jnp.concatenate([frames[..., :3].reshape(*frames.shape[:-2], 9), frames[..., 3]], axis=-1),
            "positions": out["final_atom_positions"],
            "mask": out["final_atom_mask"],
        }

    def forward(single, pair, aatype, mask):
        batch = {
            "aatype": aatype,
            "seq_mask": mask,
            "atom14_atom_exists": jnp.asarray(atoms.ATOM14_MASK)[aatype],
            "atom37_atom_exists": jnp.asarray(atoms.ATOM37_MASK)[aatype] * mask[:, None],
            "residx_atom37_to_atom14": jnp.asarray(atoms.ATOM37_TO_ATOM14)[aatype],
        }
        return (run_monomer if monomer else run_multimer)({"single": single, "pair": pair}, batch)

    transformed = hk.transform(forward)
    return lambda params, *inputs: transformed.apply(params, jax.random.PRNGKey(0), *inputs)


def random_frames(rng: np.random.Generator, num: int) -> tuple[jax.Array, jax.Array, Rigid]:
    """Unit quaternions, translations, and both as `Rigid`."""
    quaternion = rng.normal(size=(num, 4)).astype(np.float32)
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    translation = rng.normal(size=(num, 3)).astype(np.float32)
    rotation = geometry.rotation_from_quaternion(jnp.asarray(quaternion))
    return jnp.asarray(quaternion), jnp.asarray(translation), Rigid(rotation=rotation, translation=translation)
