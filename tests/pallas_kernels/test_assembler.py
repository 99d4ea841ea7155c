"""Kernels and the ptxas that is found: an old one is passed over or refused, the one installed with JAX goes first."""

import os

import jax
import pytest
from jax import numpy as jnp

import pallas_kernels
from pallas_kernels import assembler, launch
from pallas_kernels.dispatch import ImplementationUnavailable


def _ptxas(folder, release):
    folder.mkdir(parents=True)
    path = folder / "ptxas"
    path.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.140"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A cluster's CUDA 12.2, first on PATH, beside a JAX whose CUDA did not come in wheels."""
    path = _ptxas(tmp_path / "module", "12.2")
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(assembler, "_PACKAGES", ())
    return path


def _wheel(tmp_path, monkeypatch, release):
    ptxas = _ptxas(tmp_path / "site-packages" / "some_nvidia" / "cuda_nvcc" / "bin", release)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    monkeypatch.setattr(assembler, "_PACKAGES", ("no_such_package.cuda_nvcc", "some_nvidia.cuda_nvcc"))
    return ptxas


def _lowered(implementation, platform="cuda"):
    x, vector = jnp.ones((2, 64)), jnp.ones(64)
    function = jax.jit(lambda x: pallas_kernels.layer_norm(x, vector, vector, implementation=implementation))
    with launch.compiling_for(90):
        return function.trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_one_that_is_too_old_leaves_kernels_to_xla_and_refuses_those_asked_for_by_name(module):
    path = os.environ["PATH"]
    assert "triton_kernel_call" not in _lowered("auto")
    with pytest.raises(ImplementationUnavailable, match=f"{module} is of CUDA 12.2, and kernels need 12.8 or newer"):
        _lowered("triton")
    assert os.environ["PATH"] == path
    assert assembler.too_old(88).endswith("or put a newer one before it on PATH)")
    assert launch.why_not("mosaic", "cpu") == "Mosaic GPU kernels run on cuda and the program is for cpu"
    with launch.compiling_for(90):
        assert launch.why_not("mosaic", "cuda") is None


def test_the_one_installed_with_jax_goes_first_and_only_once(module, tmp_path, monkeypatch):
    wheel = _wheel(tmp_path, monkeypatch, "12.9")
    path = os.environ["PATH"]
    assert "triton_kernel_call" not in _lowered("auto", "cpu")
    assert os.environ["PATH"] == path, "a program for the CPU needs no assembler"
    for _ in range(2):
        assert "triton_kernel_call" in _lowered("auto")
        assert os.environ["PATH"] == f"{wheel.parent}{os.pathsep}{path}"


def test_one_installed_with_jax_but_too_old_gives_way(module, tmp_path, monkeypatch):
    _wheel(tmp_path, monkeypatch, "12.6")
    newer = _ptxas(tmp_path / "newer", "13.0")
    monkeypatch.setenv("PATH", path := f"{newer.parent}{os.pathsep}{os.environ['PATH']}")
    assert assembler.too_old(87) is None
    assert os.environ["PATH"] == path


@pytest.mark.parametrize("says", ["#!/bin/sh\necho what\n", "#!/bin/sh\nexit 1\n", "no program"])
def test_one_that_does_not_say_what_it_is_is_left_to_jaxlib(module, says):
    module.write_text(says)
    assert assembler.too_old(87) is None


def test_none_at_all(monkeypatch):
    monkeypatch.setattr(assembler, "_PACKAGES", ())
    monkeypatch.setattr(assembler, "_ELSEWHERE", "/nowhere")
    monkeypatch.delenv("PATH")
    assert assembler.too_old(87) is None
    assembler._put_first("/some/bin")
    assert os.environ["PATH"] == "/some/bin"


def test_every_version_of_ptx_that_is_written_has_its_cuda():
    for capability in (80, 86, 89, 90, 100, 103, 120, 121):
        assert assembler._RELEASES[launch.backend_options(capability)["ptx_version"]] >= (12, 8)
