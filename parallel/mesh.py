"""The devices of a run as a grid: proteins along `data`, parts of one protein along `dap`."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from fastfold_jax.errors import UserError
from parallel.axis import Axis

DATA = "data"
"""Mesh axis along which devices hold different proteins (data parallelism)."""

DAP = "dap"
"""Mesh axis along which devices share one protein (Dynamic Axial Parallelism)."""


def make_mesh(*, data: int | None = None, dap: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `dap` devices.

    Neighbours along `dap` are of one process as far as possible: they exchange activations many times a block, while
    those along `data` exchange gradients once a step.

    Args:
      data: Proteins at a time; None for as many as the devices suffice for.
      dap: Devices that share a protein.
      devices: Which to use, by default all of all processes.

    Raises:
      UserError: if there are too few devices, or devices are left over where that would leave a process without any.
    """
    devices = list(jax.devices() if devices is None else devices)
    if dap < 1 or (data is not None and data < 1):
        raise UserError(f"a mesh of data={data} x dap={dap} devices: accepted are numbers from 1")
    data = max(len(devices) // dap, 1) if data is None else data
    if data * dap > len(devices):
        raise UserError(f"{data} x {dap} devices are asked for (data x dap), but there are {len(devices)}")
    devices.sort(key=lambda device: (device.process_index, device.id))
    chosen = devices[: data * dap]
    idle = {device.process_index for device in devices} - {device.process_index for device in chosen}
    if idle:
        raise UserError(
            f"{data} x {dap} devices (data x dap) of {len(devices)} leave processes {sorted(idle)} without any; "
            "use all, or start fewer processes"
        )
    return Mesh(np.array(chosen).reshape(data, dap), (DATA, DAP))


def dap_axis(mesh: Mesh) -> Axis:
    """The axis that blocks hold: a null object where no two devices share a protein."""
    size = mesh.shape[DAP]
    return Axis(DAP, size) if size > 1 else Axis()


def data_axis(mesh: Mesh) -> Axis:
    """The axis over which gradients and losses are averaged besides; a null object where there is one protein."""
    size = mesh.shape[DATA]
    return Axis(DATA, size) if size > 1 else Axis()
