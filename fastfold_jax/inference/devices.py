"""How many devices share a job's protein: one each, unless it is alone and long or does not fit."""

import logging
import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from fastfold_jax.autochunk import target
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.buckets import Shape
from fastfold_jax.errors import UserError
from fastfold_jax.model.distributed import possible_splits
from parallel import make_mesh

logger = logging.getLogger(__name__)

LONG = 1024
"""Residues from which splitting a job that is alone pays: below, collectives' latency takes most of what it saves."""

_LEAST_ROWS = 128  # residues a device, of a job that is split for speed
_COPIES = 4.5  # pair representations that a pass holds at once where it is chunked as far as it goes
_FIXED = 1.5 * 2**30  # parameters, compiled code, libraries


def groups(dap: int | None, num_jobs: int, devices: Sequence[jax.Device]) -> list[Sequence[jax.Device]]:
    """Which devices work on a job together: groups of as many as were asked for, else one each; all for a single job.

    Raises:
      UserError: if more were asked for than there are.
    """
    if dap is not None and dap > len(devices):
        raise UserError(f"--dap {dap}: accepted are auto and numbers up to {len(devices)}, the devices here")
    size = dap or (len(devices) if num_jobs == 1 else 1)
    return [devices[first : first + size] for first in range(0, len(devices) - size + 1, size)][:num_jobs]


def fits(num_res: int, device: jax.Device) -> bool:
    """Whether a protein fits on a device by itself, by what is known before its alignment is read."""
    shape = Shape(num_res=num_res, num_msa=512, num_extra_msa=0, num_templates=0)
    return bytes_needed(shape, 1) <= _memory(device)


def mesh_for(dap: int | None, shape: Shape, config: ModelConfig, devices: Sequence[jax.Device]) -> Mesh:
    """The devices for one job, the first of those that are free for it.

    Args:
      dap: Number of devices requested, None for `auto`.
      shape: The job's sizes, unpadded.
      devices: All of this process.

    Raises:
      UserError: if more devices are requested than exist, or the network cannot be split over them.
    """
    possible = [count for count in possible_splits(config) if count <= len(devices)]
    if dap is not None:
        if dap not in possible:
            raise UserError(
                f"--dap {dap}: accepted are auto, {', '.join(map(str, possible))} for {config.name} on "
                f"{len(devices)} devices here"
            )
        return make_mesh(data=1, dap=dap, devices=devices[:dap])
    count = _automatic(shape, possible, devices[0])
    if count > 1:
        logger.info("%d residues are split over %d devices", shape.num_res, count)
    return make_mesh(data=1, dap=count, devices=devices[:count])


def _automatic(shape: Shape, possible: Sequence[int], device: jax.Device) -> int:
    if device.platform == "cpu":
        return 1  # the host's devices share its cores and its memory
    count = 1
    if shape.num_res >= LONG:
        count = max(split for split in possible if split * _LEAST_ROWS <= shape.num_res)
    limit = _memory(device)
    fitting = [split for split in possible if bytes_needed(shape, split) <= limit]
    return max(count, fitting[0] if fitting else possible[-1])


def _memory(device: jax.Device) -> float:
    """A device's memory in bytes, infinite if unknown: whatever needs a budget then says so."""
    known = target.of(device).memory
    return math.inf if known is None else known


def bytes_needed(shape: Shape, devices: int) -> float:
    """The least that a device's share of a pass in bf16 takes, roughly: what is known before anything is traced.

    What a pass takes indeed is AutoChunk's to say (`Compiler.plan`).
    """
    pair = 2 * 128 * shape.num_res**2
    msa = 2 * 256 * shape.num_res * (shape.num_msa + shape.num_templates)
    return _FIXED + (_COPIES * pair + 2 * msa) / devices
