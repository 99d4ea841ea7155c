"""Devices to compile for that need not be present: GPUs from a description of one, TPUs from a topology's name."""

import logging
from pathlib import Path

import jax
from jax.experimental import topologies

from fastfold_jax.errors import UserError

logger = logging.getLogger(__name__)

_DESCRIPTIONS = Path(__file__).parent / "targets"


def gpus() -> list[str]:
    """Names of the GPUs that are described here."""
    return sorted(path.stem for path in _DESCRIPTIONS.glob("*.textproto"))


def devices(name: str, count: int, *, per_node: int = 8) -> list[jax.Device]:
    """So many devices, numbered node by node. JAX must have been told to use the CPU alone (`jax_platforms`).

    Args:
      name: A GPU's (`h200`), a file that describes one as XLA does (`.textproto`), or `tpu:` and a topology that
        `libtpu` knows, such as `tpu:v5e:2x4`.
      per_node: GPUs a node.

    Raises:
      UserError: if there is no such target, its plug-in is not installed, or so many devices do not fill nodes.
    """
    if name.startswith("tpu:"):
        return _tpus(name.removeprefix("tpu:"), count)
    path = Path(name) if name.endswith(".textproto") else _DESCRIPTIONS / f"{name}.textproto"
    if not path.is_file():
        raise UserError(f"target {name}: accepted are {', '.join(gpus())}, a .textproto file, or tpu:TOPOLOGY")
    if count > per_node and count % per_node:
        raise UserError(f"{count} devices do not fill nodes of {per_node}")
    topology = f"{max(1, count // per_node)}x1x{min(count, per_node)}"
    return _topology("cuda", target_config=path.read_text(), topology=topology)


def _tpus(topology: str, count: int) -> list[jax.Device]:
    found = _topology("tpu", topology_name=topology)
    if count > len(found):
        raise UserError(f"target tpu:{topology} has {len(found)} devices, not {count}")
    return found[:count]


def _topology(platform: str, **arguments: str) -> list[jax.Device]:
    try:
        return list(topologies.get_topology_desc(platform=platform, **arguments).devices)
    except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
        packages = {"cuda": "jax[cuda12-local], the extra `aot`", "tpu": "jax[tpu]"}[platform]
        raise UserError(
            f"cannot compile for {platform} ({str(error).splitlines()[0]}); it needs {packages}, and JAX on cpu alone "
            "(JAX_PLATFORMS=cpu)"
        ) from error
