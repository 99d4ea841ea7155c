"""Runs the peer to compare with, PyPI `alphafold-colabfold`, live on a CPU: one pass on our features and parameters.

Nothing here copies that package: it is imported, given its own kind of input, and asked. Needs `pip install --no-deps
alphafold-colabfold colabfold-kernels` and dm-haiku, ml-collections, dm-tree, immutabledict, biopython, pandas, absl-py.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_clip = jnp.clip


def _clip_with_old_names(array=None, min=None, max=None, *, a_min=None, a_max=None, **other):
    """`jnp.clip` that still takes the keyword names older releases had."""
    return _clip(other.pop("a", array), a_min if min is None else min, a_max if max is None else max)


# Older releases of the peer say `jnp.clip(x, a_min=...)`, which JAX no longer accepts.
jnp.clip = _clip_with_old_names

import haiku as hk  # noqa: E402  (after the shim, as whatever it guards must see it)
from alphafold.common import residue_constants  # noqa: E402
from alphafold.model import config as peer_config  # noqa: E402
from alphafold.model import modules, modules_multimer, utils  # noqa: E402

Flat = Mapping[str, np.ndarray]


def is_multimer(name: str) -> bool:
    """Whether a preset's name is that of a multimer."""
    return "multimer" in name


def config(
    name: str,
    *,
    evoformer_blocks: int = 2,
    extra_msa_blocks: int = 2,
    precision: str = "float32",
    subbatch: int = 4,
    fused_triangles: bool | None = None,
    structure_layers: int = 8,
):
    """The peer's configuration of a preset, deterministic and without zero initialisation.

    Args:
      name: a preset such as `model_1_ptm`.
      evoformer_blocks, extra_msa_blocks: depth of the two stacks.
      precision: `float32` or `bf16`.
      subbatch: rows its attention and transitions take at a time.
      fused_triangles: layout of the triangle multiplication's weights; None: as the released file has it.
      structure_layers: iterations of the structure module, which share their weights.
    """
    cfg = peer_config.model_config(name)
    model = cfg.model
    with cfg.unlocked():
        model.calc_extended_ptm = True  # keeps the PAE logits, as `pae_matrix_with_logits`
        model.num_recycle = 0
        model.num_ensemble_train = 1
        if "data" in cfg:
            cfg.data.common.num_recycle = 0
    shared = model.global_config
    shared.deterministic, shared.zero_init = True, False
    shared.bfloat16, shared.subbatch_size = precision == "bf16", subbatch
    model.heads.structure_module.num_layer = structure_layers
    trunk = model.embeddings_and_evoformer
    trunk.evoformer_num_block, trunk.extra_msa_stack_num_block = evoformer_blocks, extra_msa_blocks
    fused = name.endswith("_v3") if fused_triangles is None else fused_triangles
    for stack in (trunk.evoformer, trunk.template.template_pair_stack):
        stack.triangle_multiplication_outgoing.fuse_projection_weights = fused
        stack.triangle_multiplication_incoming.fuse_projection_weights = fused
    return model


def parameters(flat: Flat, *, fuse: bool = False) -> dict[str, dict[str, jax.Array]]:
    """DeepMind's flat `scope//name` arrays as a Haiku tree; `fuse` joins split triangle projections."""
    if fuse:
        return utils.flat_params_to_haiku(dict(flat), fuse=True)
    tree: dict[str, dict[str, jax.Array]] = {}
    for key, array in flat.items():
        scope, name = key.split("//")
        tree.setdefault(scope, {})[name] = jnp.asarray(array)
    return tree


def flatten(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The inverse of `parameters(flat)`."""
    return {f"{scope}//{name}": array for scope, inner in tree.items() for name, array in inner.items()}


def _template_batch(features, *, plural_mask: str) -> dict[str, Any]:
    return {
        "template_aatype": features.template_aatype,
        "template_all_atom_positions": features.template_all_atom_positions,
        plural_mask: features.template_all_atom_mask,
    }


def _atom_tables(aatype) -> dict[str, jax.Array]:
    """The atom14/atom37 tables that DeepMind's monomer features carry."""
    order37, order14, has14 = [], [], []
    for letter in [*residue_constants.restypes, "X"]:
        name = residue_constants.restype_1to3.get(letter, "UNK")
        atoms = residue_constants.restype_name_to_atom14_names[name]
        position = {atom: i for i, atom in enumerate(atoms) if atom}
        order14.append([residue_constants.atom_order[a] if a else 0 for a in atoms])
        has14.append([float(bool(a)) for a in atoms])
        order37.append([position.get(a, 0) for a in residue_constants.atom_types])
    has37 = np.zeros((21, 37), np.float32)
    for i, letter in enumerate(residue_constants.restypes):
        for atom in residue_constants.residue_atoms[residue_constants.restype_1to3[letter]]:
            has37[i, residue_constants.atom_order[atom]] = 1.0
    aatype = jnp.asarray(aatype)
    tables = {
        "residx_atom14_to_atom37": np.array(order14, np.int32),
        "atom14_atom_exists": np.array(has14, np.float32),
        "residx_atom37_to_atom14": np.array(order37, np.int32),
        "atom37_atom_exists": has37,
    }
    return {name: jnp.asarray(table)[aatype] for name, table in tables.items()}


def monomer_batch(features) -> dict[str, Any]:
    """Our features as the processed feature dict that DeepMind's monomer reads."""
    aatype = jnp.asarray(features.aatype)
    batch = {
        "aatype": aatype,
        "residue_index": features.residue_index,
        "seq_mask": features.seq_mask,
        "target_feat": jnp.pad(jax.nn.one_hot(aatype, 21), ((0, 0), (1, 0))),
        "msa_feat": features.msa_feat,
        "msa_mask": features.msa_mask,
        "extra_msa": jnp.asarray(features.extra_msa, jnp.int32),
        "extra_msa_mask": features.extra_msa_mask,
        "extra_has_deletion": (jnp.asarray(features.extra_deletion_value) > 0).astype(jnp.float32),
        "extra_deletion_value": features.extra_deletion_value,
        **_atom_tables(aatype),
    }
    if features.template_aatype.shape[0]:
        batch |= _template_batch(features, plural_mask="template_all_atom_masks")
        beta, mask = modules.pseudo_beta_fn(
            jnp.asarray(features.template_aatype),
            jnp.asarray(features.template_all_atom_positions),
            jnp.asarray(features.template_all_atom_mask),
        )
        batch |= {"template_mask": features.template_mask, "template_pseudo_beta": beta}
        batch |= {"template_pseudo_beta_mask": mask}
    return batch


def multimer_batch(features) -> dict[str, Any]:
    """Our features for DeepMind's multimer; its in-graph sampling is replaced by what they already hold."""
    num_res = features.aatype.shape[0]
    deletion = jnp.asarray(features.extra_deletion_value)[..., None]
    extra = jax.nn.one_hot(jnp.asarray(features.extra_msa, jnp.int32), 23)
    return {
        **{k: getattr(features, k) for k in ("aatype", "residue_index", "seq_mask", "asym_id", "entity_id", "sym_id")},
        "msa_mask": features.msa_mask,
        "extra_msa": features.extra_msa,  # its presence tells the peer that sampling is done
        "sampled_msa_feat": features.msa_feat,
        "sampled_extra_msa_feat": jnp.concatenate([extra, (deletion > 0).astype(jnp.float32), deletion], -1),
        "extra_msa_mask": features.extra_msa_mask,
        "all_atom_positions": jnp.zeros((num_res, 37, 3)),
        "all_atom_mask": jnp.zeros((num_res, 37)),
        **_template_batch(features, plural_mask="template_all_atom_mask"),
    }


# The peer builds these from sampled integers; ours arrive built, so that both networks read the same arrays.
_build_msa_feat = modules_multimer.create_msa_feat
_build_extra_feat = modules_multimer.create_extra_msa_feature


def _given_msa_feat(batch):
    return batch["sampled_msa_feat"] if "sampled_msa_feat" in batch else _build_msa_feat(batch)


def _given_extra_feat(batch, num_extra_msa):
    if "sampled_extra_msa_feat" not in batch:
        return _build_extra_feat(batch, num_extra_msa)
    return batch["sampled_extra_msa_feat"], batch["extra_msa_mask"]


modules_multimer.create_msa_feat = _given_msa_feat
modules_multimer.create_extra_msa_feature = _given_extra_feat


def no_prev(num_res: int) -> dict[str, jax.Array]:
    """What the first pass recycles."""
    return {
        "prev_msa_first_row": jnp.zeros((num_res, 256)),
        "prev_pair": jnp.zeros((num_res, num_res, 128)),
        "prev_pos": jnp.zeros((num_res, 37, 3)),
    }


def one_pass(
    name: str, model_config, *, training: bool = False, representations: bool = True
) -> Callable[..., dict[str, Any]]:
    """A pure function `(parameters, features, prev) -> outputs` of the whole network, to jit or differentiate.

    Outputs are the heads' dicts as the peer names them, with `prev`, its confidence metrics and, if asked for, the
    trunk's `representations`. `training` (with dropout off) turns off its sub-batching.
    """
    multimer = is_multimer(name)
    network = modules_multimer.AlphaFold if multimer else modules.AlphaFold_noE

    def forward(batch):
        return network(model_config)(batch, is_training=training, return_representations=representations)

    apply = hk.transform(forward).apply

    def run(params, features, prev=None):
        batch = dict(multimer_batch(features) if multimer else monomer_batch(features))
        batch["prev"] = dict(no_prev(features.aatype.shape[0]) if prev is None else prev)
        return apply(params, jax.random.PRNGKey(0), batch)

    return run


@functools.cache
def jitted_pass(name: str, structure_layers: int = 8):
    """`one_pass` of a shallow preset, compiled once for a whole test session."""
    return jax.jit(one_pass(name, config(name, structure_layers=structure_layers)))
