"""Whole networks on a mesh, to compare with one device: small, with values everywhere, on features of odd sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.config.presets import preset
from fastfold_jax.data import buckets
from fastfold_jax.data.batch import Features
from fastfold_jax.model.alphafold import init_state, make_apply
from fastfold_jax.model.distributed import distribute, for_mesh
from fastfold_jax.model.recycling import Prev
from parallel import make_mesh

SIZES = {
    "evoformer_blocks": 2,
    "extra_msa_blocks": 1,
    "template_blocks": 1,
    "structure_layers": 2,
    "c_m": 16,
    "c_z": 16,
    "c_s": 16,
    "c_e": 16,
    "c_t": 16,
    "c_outer": 4,
    "c_template_attention": 16,
    "msa_heads": 2,
    "pair_heads": 2,
}
EXECUTION = Execution(precision="float32", outputs="full")


def network(name: str) -> ModelConfig:
    """A small network of the preset's kind."""
    return preset(name, **SIZES)


@functools.cache
def parameters(config: ModelConfig):
    """Drawn, zero nowhere."""
    return init_state(config, 0, zero_final=False)


def features(config: ModelConfig, *, num_res: int, rows: int, extra_rows: int, templates: int) -> Features:
    """Random features of a complex of two chains; no size need divide by anything."""
    draw = np.random.default_rng(1)
    n, t = num_res, templates
    chain = (np.arange(n) >= n // 2).astype(np.int32)
    ensemble = () if config.num_ensemble == 1 else (config.num_ensemble,)
    return Features(
        aatype=draw.integers(0, 20, n).astype(np.int32),
        residue_index=np.arange(n, dtype=np.int32),
        asym_id=chain + 1,
        entity_id=chain + 1,
        sym_id=np.ones(n, np.int32),
        seq_mask=np.ones(n, np.float32),
        msa_feat=draw.normal(size=(*ensemble, rows, n, 49)).astype(np.float32),
        msa_mask=(draw.random((*ensemble, rows, n)) > 0.2).astype(np.float32),
        extra_msa=draw.integers(0, 23, (*ensemble, extra_rows, n)).astype(np.int8),
        extra_deletion_value=draw.random((*ensemble, extra_rows, n)).astype(np.float32),
        extra_msa_mask=(draw.random((*ensemble, extra_rows, n)) > 0.2).astype(np.float32),
        template_aatype=draw.integers(0, 21, (t, n)).astype(np.int32),
        template_all_atom_positions=draw.normal(size=(t, n, 37, 3), scale=8).astype(np.float32),
        template_all_atom_mask=(draw.random((t, n, 37)) > 0.1).astype(np.float32),
        template_mask=np.ones(t, np.float32),
    )


def padded(unpadded: Features, devices: int) -> Features:
    """Up to multiples of the number of devices."""

    def up(size):
        return -(-size // devices) * devices

    rows, n = unpadded.msa_mask.shape[-2:]
    shape = buckets.Shape(
        num_res=up(n),
        num_msa=up(rows),
        num_extra_msa=up(unpadded.extra_msa.shape[-2]),
        num_templates=len(unpadded.template_mask),
    )
    return buckets.pad(unpadded, shape)


def previous(config: ModelConfig, num_res: int, devices: int) -> Prev:
    """A random state before a pass, padded up to a multiple of the number of devices."""
    draw, total = np.random.default_rng(2), -(-num_res // devices) * devices
    pos, row, pair = np.zeros((total, 37, 3)), np.zeros((total, config.c_m)), np.zeros((total, total, config.c_z))
    pos[:num_res] = draw.normal(size=(num_res, 37, 3), scale=8)
    row[:num_res] = draw.normal(size=(num_res, config.c_m))
    pair[:num_res, :num_res] = draw.normal(size=(num_res, num_res, config.c_z))
    return Prev(pos=pos.astype("f"), msa_first_row=row.astype("f"), pair=pair.astype("f"))


def one_pass(config: ModelConfig, devices: int, execution: Execution = EXECUTION):
    """`(state, features, prev, key) -> outputs` on so many devices."""
    mesh = make_mesh(data=1, dap=devices, devices=jax.devices()[:devices])
    local = sliced(for_mesh(execution, mesh))
    apply = distribute(make_apply(config, local), mesh, config, local)
    return lambda state, features, prev, key=None: apply(state, features, prev, key)[0]


def sliced(execution: Execution) -> Execution:
    """Exchanges in slabs, however small the arrays are."""
    return dataclasses.replace(execution, axis=dataclasses.replace(execution.axis, slab_bytes=1))


def cut(outputs, rows: int, num_res: int):
    """Outputs without padding: named leaves whose axes of residues and rows end where the protein does."""
    full = outputs.full
    n = num_res
    trajectory = full.structure.trajectory
    return {
        "positions": outputs.atom_positions[:n],
        "plddt": outputs.plddt[:n],
        "contacts": outputs.contact_probability[:n, :n],
        "ranking": outputs.ranking_confidence,
        "change": outputs.change,
        **({} if outputs.pae is None else {"pae": outputs.pae[:n, :n], "ptm": outputs.ptm}),
        **({} if outputs.iptm is None else {"iptm": outputs.iptm}),
        "single": full.representations.single[:n],
        "pair": full.representations.pair[:n, :n],
        "msa": full.representations.msa[:rows, :n],
        "distogram": full.distogram[:n, :n],
        "masked_msa": full.masked_msa[:rows, :n],
        "lddt": full.lddt[:n],
        "resolved": full.resolved[:n],
        "atoms": trajectory.side_chains.atom14_positions[:, :n],
        "angles": trajectory.side_chains.sin_cos[:, :n],
    }


def weighted(parts: dict) -> jax.Array:
    """A scalar that depends on everything training's losses do, each element with a weight of its own."""
    total = jnp.zeros(())
    for index, name in enumerate(sorted(parts)):
        weights = jnp.cos(jnp.arange(parts[name].size, dtype=jnp.float32) + index).reshape(parts[name].shape)
        total += jnp.mean(jnp.sin(parts[name]) * weights)
    return total


def step(config: ModelConfig, devices: int, shape: tuple[int, int], execution: Execution = EXECUTION):
    """`(state, features, prev, key) -> ((loss, outputs), gradient)`, jitted; shape is the protein's rows, residues."""
    run = one_pass(config, devices, execution)

    def loss(state, features, prev, key):
        parts = cut(run(state, features, prev, key), *shape)
        return weighted(parts), parts

    return jax.jit(jax.value_and_grad(loss, has_aux=True))
