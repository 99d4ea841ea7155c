"""Launching Triton kernels from JAX: one function that hides jax-triton's versions, and can be watched or replaced.

Nothing here imports Triton, which is an optional package: kernels come as arguments.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax

from pallas_kernels import assembler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The GPU that is compiled for.

    Attributes:
      capability: Compute capability, ten times: 90 for 9.0.
      name: As the driver calls the device; empty if not known.
    """

    capability: int
    name: str = ""

    def __post_init__(self):
        if not 10 <= self.capability < 200:
            raise ValueError(f"capability={self.capability}: it is ten times the compute capability, as 90 is of 9.0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How a kernel is cut up.

    Attributes:
      blocks: Sizes of its tiles, by the name of the kernel's parameter.
      num_warps: Warps of a program.
      num_stages: Depth of the loops' software pipelines.
    """

    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a kernel, whose parameters are arrays, sizes, outputs and constants, in this order.

    Attributes:
      kernel: A `triton.jit` function.
      arrays: Inputs.
      sizes: Integers known when the program is compiled but not when the kernel is.
      outputs: Shapes and types.
      grid: Programs along each of at most three axes.
      constants: What the kernel is compiled for, its blocks excepted.
      zeroed: Which outputs are zero when the kernel starts.
    """

    kernel: Any
    arrays: Sequence[jax.Array]
    sizes: Sequence[int] = ()
    outputs: Sequence[jax.ShapeDtypeStruct]
    grid: tuple[int, ...]
    config: Config
    constants: Mapping[str, Any]
    zeroed: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launcher:
    """Something that runs kernels.

    Attributes:
      run: Makes a launch a part of the program that is being traced, and returns its outputs.
      platform: What programs with kernels are lowered for.
    """

    run: Callable[[Launch, Target], Sequence[jax.Array]]
    platform: str = "cuda"


AMPERE, HOPPER, THOR = 80, 90, 110
# Of CUDA 12.8. Triton by itself writes for the newest CUDA, but what assembles it is the CUDA that JAX runs on.
_PTX_VERSION = 87
# Of the compute capabilities that only CUDA 12.9 knows.
_NEWER_PTX = {103: 88, 121: 88}


def backend_options(capability: int) -> dict[str, int]:
    """What Triton compiles by, beside a launch's configuration."""
    return {"ptx_version": _NEWER_PTX.get(capability, _PTX_VERSION)}


def _through_jax_triton(launch: Launch, target: Target) -> Sequence[jax.Array]:
    import jax_triton

    accepted = inspect.signature(jax_triton.triton_call).parameters
    versioned: dict[str, Any] = {"out_shape" if "out_shape" in accepted else "out_type": list(launch.outputs)}
    if "backend_options" in accepted:
        versioned["backend_options"] = backend_options(target.capability)
    return jax_triton.triton_call(
        *launch.arrays,
        *launch.sizes,
        kernel=launch.kernel,
        grid=launch.grid,
        num_warps=launch.config.num_warps,
        num_stages=launch.config.num_stages,
        compute_capability=target.capability,
        zeroed_outputs=launch.zeroed,
        name=launch.kernel.__name__,
        **versioned,
        **launch.constants,
        **launch.config.blocks,
    )


_JAX_TRITON = Launcher(run=_through_jax_triton)
_LAUNCHER: ContextVar[Launcher] = ContextVar("launcher", default=_JAX_TRITON)
_TARGET: ContextVar[Target | None] = ContextVar("target", default=None)


def run(launch: Launch) -> Sequence[jax.Array]:
    """The outputs of a launch."""
    return _LAUNCHER.get().run(launch, target())


def platform() -> str:
    """What programs with kernels are lowered for."""
    return _LAUNCHER.get().platform


def target() -> Target:
    """The GPU compiled for: the one set by `compiling_for`, else this machine's, else any from Ampere on.

    The last happens only when a program is compiled ahead of time, on a machine without a GPU, without saying which.
    """
    chosen = _TARGET.get()
    return chosen or _local_target() or Target(capability=AMPERE)


def _local_target() -> Target | None:
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:  # no such backend
        return None
    return Target(capability=round(10 * float(device.compute_capability)), name=device.device_kind)


@contextlib.contextmanager
def compiling_for(capability: int, name: str = "") -> Iterator[None]:
    """Programs lowered inside hold kernels for this GPU: needed to compile ahead of time for one that is not here."""
    token = _TARGET.set(Target(capability=capability, name=name))
    try:
        yield
    finally:
        _TARGET.reset(token)


@contextlib.contextmanager
def launching_with(launcher: Launcher) -> Iterator[None]:
    """Launches inside go to `launcher`: to an interpreter in tests, to the report of what was compiled."""
    token = _LAUNCHER.set(launcher)
    try:
        yield
    finally:
        _LAUNCHER.reset(token)


def why_not(implementation: str, platform: str | None) -> str | None:
    """Why no kernel of this kind can run on a platform, or be compiled on this machine; None if some can.

    Args:
      implementation: `mosaic` or one of Triton's.
      platform: What is lowered for, if that is known.
    """
    mosaic = implementation == "mosaic"
    if platform not in (None, _LAUNCHER.get().platform):
        kind = "Mosaic GPU" if mosaic else "Triton"
        return f"{kind} kernels run on {_LAUNCHER.get().platform} and the program is for {platform}"
    if platform is not None:
        capability = target().capability
        if mosaic and capability != HOPPER:
            return f"Mosaic GPU kernels are for compute capability 9.0 (Hopper), the program for {capability / 10}"
        if capability < AMPERE:
            return f"Triton kernels are for compute capability 8.0 (Ampere) or more, the program for {capability / 10}"
        if capability == THOR:
            return f"kernels are assembled by CUDA 12, which does not know compute capability {capability / 10}"
    if (missing := _missing_packages()) is not None or platform is None or _LAUNCHER.get() is not _JAX_TRITON:
        return missing
    refused = assembler.too_old(backend_options(target().capability)["ptx_version"])
    return None if mosaic else refused  # Mosaic writes what its assembler knows


def _missing_packages() -> str | None:
    """Why Triton kernels cannot be compiled on this machine, or None if they can."""
    missing = [name for name in ("triton", "jax_triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install 'fastfold-jax[cuda]')"
    return None
