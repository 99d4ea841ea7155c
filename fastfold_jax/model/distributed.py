"""One pass on a mesh of devices: how features, the previous pass and outputs are split, and the pass in `shard_map`.

Outside, every array has its global shape; inside, the model sees this device's part. `jax.grad` is taken of what
`on_mesh` returns, never inside: parameters are whole on every device, so that their gradients are summed over the
devices where they enter, once, outside the scans over blocks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.errors import UserError
from fastfold_jax.model.alphafold import Apply, FullOutputs, Outputs
from fastfold_jax.model.evoformer import block_type
from fastfold_jax.model.recycling import Prev, init_prev
from fastfold_jax.model.trunk import SAMPLED_FEATURES, Representations
from parallel import DAP, Axis, dap_axis

WHOLE = PartitionSpec()
ROWS = PartitionSpec(DAP)
COLUMNS = PartitionSpec(None, DAP)

# The masks, though as large as the extra MSA, are read whole by the outer product mean.
_SPLIT_FEATURES = ("msa_feat", "extra_msa", "extra_deletion_value")


def for_mesh(execution: Execution, mesh: Mesh) -> Execution:
    """The same execution with its activations split over the mesh."""
    return dataclasses.replace(execution, axis=dap_axis(mesh))


def feature_specs(config: ModelConfig) -> Features:
    """How features are split: the MSAs as the blocks carry them, all else whole."""
    specs = {}
    for field in dataclasses.fields(Features):
        spec = _msa_spec(config) if field.name in _SPLIT_FEATURES else WHOLE
        if field.name in SAMPLED_FEATURES and config.num_ensemble > 1:
            spec = PartitionSpec(None, *spec)
        specs[field.name] = spec
    return Features(**specs)


def prev_specs() -> Prev:
    """How the state between passes is split."""
    return Prev(pos=WHOLE, msa_first_row=WHOLE, pair=COLUMNS)


def argument_specs(config: ModelConfig) -> tuple[PartitionSpec, Features, Prev]:
    """How a pass's parameters, features and previous state are split."""
    return WHOLE, feature_specs(config), prev_specs()


def output_specs(config: ModelConfig, execution: Execution) -> Outputs:
    """How outputs are split: what is of pairs by rows, all else whole. A spec may stand for a whole subtree."""
    full: Any = FullOutputs(
        representations=Representations(single=WHOLE, msa_first_row=WHOLE, msa=_msa_spec(config), pair=COLUMNS),
        structure=cast(Any, WHOLE),
        distogram=ROWS,
        aligned_error=ROWS,
        lddt=WHOLE,
        masked_msa=_msa_spec(config),
        resolved=WHOLE,
    )
    whole: dict[str, Any] = {field.name: WHOLE for field in dataclasses.fields(Outputs)}
    pairs = {"pae": ROWS, "contact_probability": ROWS}
    return Outputs(**{**whole, **pairs, "full": full if execution.outputs == "full" else None})


def on_mesh(function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` of this device's parts as one of whole arrays; itself where the mesh is a single device.

    Replication is not checked: kernels could not say whether they keep it, and a checked replicated parameter would
    have its gradient summed over devices inside every block.
    """
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def distribute(apply: Apply, mesh: Mesh, config: ModelConfig, execution: Execution) -> Apply:
    """A pass over one protein, split over the mesh.

    Args:
      apply: What `make_apply` returned for this configuration and `for_mesh(execution, mesh)`, perhaps chunked.

    Returns:
      The same function of whole arrays.

    Raises:
      UserError: if the network cannot be split over so many devices.
    """
    check_splits(config, mesh)
    out_specs = (output_specs(config, execution), prev_specs())

    def whole(state, features, prev, key=None):
        in_specs = (*argument_specs(config), WHOLE)
        return on_mesh(apply, mesh, in_specs=in_specs, out_specs=out_specs)(state, features, prev, key)

    return whole


def check_splits(config: ModelConfig, mesh: Mesh) -> None:
    """Triangle multiplication gives each device some of the channels: they must divide.

    Raises:
      UserError: if they do not.
    """
    devices, possible = mesh.shape[DAP], possible_splits(config)
    if devices not in possible:
        raise UserError(
            f"{config.name} cannot be split over {devices} devices: accepted are {', '.join(map(str, possible))}"
        )


def possible_splits(config: ModelConfig) -> list[int]:
    """Over how many devices a network can be split, in order."""
    channels = [config.c_z] + [config.c_t] * bool(config.num_templates)
    return [devices for devices in range(1, min(channels) + 1) if not any(count % devices for count in channels)]


def named_shardings(mesh: Mesh, specs: Any) -> Any:
    """Specs as shardings on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def start_prev(
    num_res: int,
    config: ModelConfig,
    execution: Execution,
    mesh: Mesh,
    positions: Float[np.ndarray, "n 37 3"] | None = None,
) -> Prev:
    """The state before the first pass, each device making its part.

    Args:
      positions: Å, of the first residues: what the first pass takes for the structure of one before it.
    """
    whole = dataclasses.replace(execution, axis=Axis())
    shapes = jax.eval_shape(lambda: init_prev(num_res, config, whole))
    shardings = named_shardings(mesh, prev_specs())
    prev = jax.tree.map(lambda leaf, split: jnp.zeros(leaf.shape, leaf.dtype, device=split), shapes, shardings)
    if positions is None:
        return prev
    padded = np.zeros(prev.pos.shape, prev.pos.dtype)
    padded[: len(positions)] = positions
    return dataclasses.replace(prev, pos=jax.device_put(padded, shardings.pos))


def _msa_spec(config: ModelConfig) -> PartitionSpec:
    return (ROWS, COLUMNS)[block_type(config).msa_sharded]
