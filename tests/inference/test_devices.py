"""Which devices a job gets: its own, more if it is alone and long or does not fit, as many as were asked for."""

from types import SimpleNamespace

import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.data.buckets import Shape
from fastfold_jax.errors import UserError
from fastfold_jax.inference import devices
from fastfold_jax.inference.devices import bytes_needed, fits, groups, mesh_for

CONFIG = preset("model_1_ptm")


def _shape(num_res):
    return Shape(num_res=num_res, num_msa=508, num_extra_msa=1024, num_templates=4)


@pytest.fixture
def gpus(monkeypatch):
    """Eight made-up GPUs of 80 GB, 75 % of it JAX's."""
    monkeypatch.setattr(devices, "make_mesh", lambda *, data, dap, devices: SimpleNamespace(dap=dap, devices=devices))
    stats = {"bytes_limit": 60e9}
    common = {"process_index": 0, "platform": "gpu", "local_hardware_id": None, "device_kind": "NVIDIA H100 80GB HBM3"}
    return [SimpleNamespace(id=i, memory_stats=lambda: stats, **common) for i in range(8)]


@pytest.mark.parametrize(
    ("num_res", "free", "count"), [(512, 8, 1), (1023, 8, 1), (1024, 8, 8), (1024, 3, 2), (4096, 8, 8), (4096, 1, 1)]
)
def test_auto(gpus, num_res, free, count):
    mesh = mesh_for(None, _shape(num_res), CONFIG, gpus[:free])
    assert mesh.dap == count and mesh.devices == gpus[:count]


def test_auto_takes_what_there_is_for_what_fits_nowhere(gpus):
    assert mesh_for(None, _shape(40_000), CONFIG, gpus[:4]).dap == 4
    assert bytes_needed(_shape(40_000), 4) > 60e9


def test_auto_splits_nothing_on_a_cpu(gpus):
    for gpu in gpus:
        gpu.platform = "cpu"
    assert mesh_for(None, _shape(4096), CONFIG, gpus).dap == 1


def test_a_number_is_taken_at_its_word(gpus):
    assert mesh_for(4, _shape(100), CONFIG, gpus).dap == 4
    for wrong in (3, 16, 0):
        with pytest.raises(UserError, match=rf"--dap {wrong}: accepted are auto, 1, 2, 4, 8 for model_1_ptm on 8"):
            mesh_for(wrong, _shape(100), CONFIG, gpus)


def test_jobs_get_a_device_each_or_as_many_as_asked_for():
    assert groups(None, 1, range(8)) == [range(8)]
    assert groups(None, 3, range(8)) == [range(0, 1), range(1, 2), range(2, 3)]
    assert groups(4, 5, range(8)) == [range(4), range(4, 8)]
    assert groups(3, 5, range(8)) == [range(3), range(3, 6)]
    assert groups(2, 1, range(8)) == [range(2)]
    with pytest.raises(UserError, match="--dap 16: accepted are auto and numbers up to 8"):
        groups(16, 1, range(8))


def test_what_is_too_long_for_one_device(gpus):
    assert fits(4096, gpus[0]) and fits(6500, gpus[0]) and not fits(9000, gpus[0])
    gpus[0].memory_stats = lambda: None  # it cannot say: its kind does
    assert fits(8000, gpus[0]) and not fits(9000, gpus[0])
