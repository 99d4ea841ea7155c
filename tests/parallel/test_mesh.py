"""The grid of devices: its shape, who is whose neighbour, what is refused."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fastfold_jax.errors import UserError
from parallel import DAP, DATA, Axis, dap_axis, data_axis, make_mesh


def test_the_grid_is_data_by_dap():
    mesh = make_mesh(data=2, dap=4)
    assert dict(mesh.shape) == {DATA: 2, DAP: 4}
    assert dap_axis(mesh) == Axis("dap", 4) and data_axis(mesh) == Axis("data", 2)


def test_one_device_along_an_axis_is_no_axis():
    mesh = make_mesh(data=1, dap=1)
    assert dap_axis(mesh) == Axis() == data_axis(mesh)


def test_data_fills_the_devices():
    assert make_mesh(dap=2).shape[DATA] == 4
    assert make_mesh(dap=8).shape[DATA] == 1
    assert make_mesh(dap=3, devices=jax.devices()[:7]).shape[DATA] == 2


@pytest.mark.parametrize(("data", "dap"), [(2, 8), (0, 1), (1, -1), (None, 9)])
def test_what_cannot_be_is_refused(data, dap):
    with pytest.raises(UserError, match=r"asked for|accepted are"):
        make_mesh(data=data, dap=dap)


def _devices(processes, each):
    ids = np.random.default_rng(0).permutation(processes * each)
    return [SimpleNamespace(id=int(i), process_index=int(i) // each) for i in ids]


def test_neighbours_share_a_process(monkeypatch):
    """Made-up devices, given in any order: a protein stays within a process where it fits into one."""
    monkeypatch.setattr("parallel.mesh.Mesh", lambda devices, names: SimpleNamespace(devices=devices))
    mesh = make_mesh(dap=4, devices=_devices(processes=3, each=4))
    assert [{device.process_index for device in row} for row in mesh.devices] == [{0}, {1}, {2}]


def test_no_process_may_be_idle():
    with pytest.raises(UserError, match=r"of 4 leave processes \[1\] without any"):
        make_mesh(data=1, dap=2, devices=_devices(processes=2, each=2))
