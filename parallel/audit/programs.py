"""The programs that are audited, compiled ahead of time: a pass, a training step, or blocks of the Evoformer alone."""

import contextlib
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastfold_jax.autochunk import autochunk
from fastfold_jax.autochunk.target import of
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.model.alphafold import abstract_state, make_apply
from fastfold_jax.model.distributed import (
    COLUMNS,
    ROWS,
    WHOLE,
    argument_specs,
    distribute,
    for_mesh,
    named_shardings,
    on_mesh,
)
from fastfold_jax.model.evoformer import block_type, evoformer_stack, run_stack
from fastfold_jax.model.recycling import init_prev
from pallas_kernels import launch
from parallel import DATA, make_mesh
from parallel.audit import target

Part = Literal["pass", "block", "block-training"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large one protein's input is."""

    residues: int
    rows: int = 512
    extra_rows: int = 1024
    templates: int = 0


def abstract_features(sizes: Sizes) -> Features:
    """Shapes and types of one pass's features."""

    def spec(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    n, t, rows, extra_rows = sizes.residues, sizes.templates, sizes.rows, sizes.extra_rows
    whole = {name: spec(n, dtype=jnp.int32) for name in ("aatype", "residue_index", "asym_id", "entity_id", "sym_id")}
    return Features(
        **whole,
        seq_mask=spec(n),
        msa_feat=spec(rows, n, 49),
        msa_mask=spec(rows, n),
        extra_msa=spec(extra_rows, n, dtype=jnp.int8),
        extra_deletion_value=spec(extra_rows, n),
        extra_msa_mask=spec(extra_rows, n),
        template_aatype=spec(t, n, dtype=jnp.int32),
        template_all_atom_positions=spec(t, n, 37, 3),
        template_all_atom_mask=spec(t, n, 37),
        template_mask=spec(t),
    )


def lower(part: Part, config: ModelConfig, sizes: Sizes, execution: Execution, mesh: Mesh, budget: Any = None) -> Any:
    """The program, traced for a mesh of devices that need not exist; `.compile()` is next.

    Args:
      budget: Bytes, or what else `autochunk` takes; None for no chunking.
    """
    with kernels_for(mesh.devices.flat[0]):
        return _lower(part, config, sizes, execution, mesh, budget)


def kernels_for(device: jax.Device) -> contextlib.AbstractContextManager[None]:
    """What is lowered inside holds kernels for this GPU."""
    capability = getattr(device, "compute_capability", None)
    return contextlib.nullcontext() if capability is None else launch.compiling_for(round(10 * float(capability)))


def _lower(part: Part, config: ModelConfig, sizes: Sizes, execution: Execution, mesh: Mesh, budget: Any) -> Any:
    execution = for_mesh(execution, mesh)
    device = mesh.devices.flat[0]
    if part == "pass":
        apply = distribute(_chunked(make_apply(config, execution), budget, device, (2,)), mesh, config, execution)
        previous = jax.eval_shape(functools.partial(init_prev, sizes.residues, config, Execution()))
        arguments = (abstract_state(config), abstract_features(sizes), previous)
        arguments = _placed(arguments, named_shardings(mesh, argument_specs(config)))
        return jax.jit(apply, donate_argnums=2).lower(*arguments)
    function, arguments = _blocks(config, sizes, execution, mesh, budget)
    if part == "block":
        return jax.jit(function, donate_argnums=(1, 2)).lower(*arguments)

    def loss(state, m, z, *masks):
        return sum(jnp.sum(x.astype(jnp.float32)) for x in function(state, m, z, *masks))

    return jax.jit(jax.grad(loss, (0, 1, 2)), donate_argnums=(1, 2)).lower(*arguments)


def mesh_of(name: str, *, data: int, dap: int, per_node: int) -> Mesh:
    """Devices of a target that need not exist."""
    return make_mesh(data=data, dap=dap, devices=target.devices(name, data * dap, per_node=per_node))


def _blocks(config: ModelConfig, sizes: Sizes, execution: Execution, mesh: Mesh, budget: Any) -> tuple[Any, tuple]:
    """The Evoformer's blocks as a function of whole arrays, a protein for each of the mesh's rows; its arguments."""
    graphdef, state = nnx.split(evoformer_stack(config, execution))
    n, data = sizes.residues, mesh.shape[DATA]

    def blocks(state, m, z, msa_mask, seq_mask):
        stack = nnx.merge(graphdef, state)
        run = functools.partial(run_stack, stack, masks=(msa_mask, seq_mask), key=None, remat=execution.remat)
        return _chunked(run, budget, mesh.devices.flat[0], (0, 1))(m, z)

    def local(state, m, z, *masks):
        return tuple(x[None] for x in blocks(state, m[0], z[0], *masks))

    of_msa = (ROWS, COLUMNS)[block_type(config).msa_sharded]
    specs = (PartitionSpec(DATA, *of_msa), PartitionSpec(DATA, *COLUMNS))
    in_specs = (WHOLE, *specs, WHOLE, WHOLE)
    dtype = execution.dtype
    arrays = (
        state,
        jax.ShapeDtypeStruct((data, sizes.rows, n, config.c_m), dtype),
        jax.ShapeDtypeStruct((data, n, n, config.c_z), dtype),
        jax.ShapeDtypeStruct((sizes.rows, n), dtype),
        jax.ShapeDtypeStruct((n,), dtype),
    )
    function = on_mesh(local, mesh, in_specs=in_specs, out_specs=specs)
    return function, _placed(arrays, named_shardings(mesh, in_specs))


def _placed(arguments: tuple, shardings: tuple) -> tuple:
    """Shapes with where their parts lie; a sharding may stand for a whole subtree."""

    def place(sharding: NamedSharding, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    return jax.tree.map(place, shardings, arguments)


def _chunked(function: Any, budget: Any, device: jax.Device, donated: tuple[int, ...]) -> Any:
    if budget is None:
        return function
    return autochunk(function, budget, target=of(device), donate_argnums=donated)
