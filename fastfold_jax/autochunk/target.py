"""What the program will run on: how much memory it has and, roughly, how fast it is."""

import dataclasses
import os

import jax

from fastfold_jax.backend.cards import memory_of_card


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A device, in the figures that predictions of time need. Only their ratios decide between plans.

    Attributes:
      name: Device kind.
      platform: `cpu`, `cuda`, ...; decides which operations are kernels.
      memory: Bytes that a program may take; None where that is not known.
      matmul: Multiply-adds times two, a second, that large matrix products reach, for 16-bit operands.
      matmul32: The same for float32.
      bandwidth: Bytes a second.
      exponentials: A second.
      launch: Seconds that a kernel takes at least.
      link: Bytes a second between devices, each way.
      latency: Seconds that an exchange between devices takes at least.
      units: Parts that work at the same time, each on one tile of a matrix product.
      tile: Rows and columns of such a tile.
    """

    name: str
    platform: str
    memory: int | None
    matmul: float
    matmul32: float
    bandwidth: float
    exponentials: float
    launch: float
    link: float = 3.6e11
    latency: float = 1e-5
    units: int
    tile: int


H200 = Target(
    name="NVIDIA H200",
    platform="cuda",
    memory=150_754_820_096,
    matmul=5e14,
    matmul32=4e13,
    bandwidth=3.8e12,
    exponentials=3.9e12,
    launch=2.5e-6,
    units=132,
    tile=128,
)
H100 = dataclasses.replace(H200, name="NVIDIA H100", memory=85_520_809_984, bandwidth=2.8e12)
A100 = dataclasses.replace(
    H200, name="NVIDIA A100", memory=85_000_000_000, matmul=2e14, matmul32=1.5e13, bandwidth=1.5e12, units=108
)
CPU = Target(
    name="CPU",
    platform="cpu",
    memory=2**36,
    matmul=1.5e11,
    matmul32=1.5e11,
    bandwidth=2e10,
    exponentials=1e9,
    launch=3e-6,
    link=2e10,
    units=1,
    tile=16,
)
_KNOWN = (H200, H100, A100)


def of(device: jax.Device) -> Target:
    """A device, present or only compiled for."""
    if device.platform == "cpu":
        return dataclasses.replace(CPU, memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    known = next((t for t in _KNOWN if t.name.split()[-1] in device.device_kind), None)
    like = known or H100
    gpu = device.platform in ("gpu", like.platform)
    return dataclasses.replace(
        like,
        name=device.device_kind,
        platform=like.platform if gpu else device.platform,
        memory=_memory(device, gpu, None if known is None else known.memory),
    )


def _memory(device: jax.Device, gpu: bool, of_its_kind: int | None) -> int | None:
    """What JAX may use of a device, where it can say, and never more than there is.

    Its allocator may be allowed more than the card has, with the host's memory behind it: of AlphaFold's setups that is
    four times as much, and far too slow to plan with.
    """
    try:
        limit = (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # it is not here
        return of_its_kind
    found = [limit, memory_of_card(device.local_hardware_id) if gpu else None]
    return min((size for size in found if size), default=of_its_kind)


def current() -> Target:
    """The device that this process computes on. The first of all would be another process's in all but one."""
    return of(jax.local_devices()[0])
