"""How much memory plans are made for: what JAX may take of a device, and never more than there is."""

import dataclasses
from typing import Any

import jax
import pytest

from fastfold_jax.autochunk import budget, target
from fastfold_jax.errors import UserError
from fastfold_jax.inference import devices

GIB = 2**30


@dataclasses.dataclass
class Device:
    """What JAX says of a device; `stats` is what it raises where that is an exception."""

    stats: Any
    device_kind: str = "NVIDIA H100 80GB HBM3"
    platform: str = "gpu"
    local_hardware_id: int = 1

    def memory_stats(self):
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(target, "memory_of_card", {0: 16 * GIB, 1: 80 * GIB}.get)


NOT_HERE = jax.errors.JaxRuntimeError("UNIMPLEMENTED: memory stats")


@pytest.mark.parametrize(
    ("device", "memory"),
    [
        (Device({"bytes_limit": 76 * GIB}), 76 * GIB),
        (Device({"bytes_limit": 320 * GIB}), 80 * GIB),  # XLA_PYTHON_CLIENT_MEM_FRACTION=4.0
        (Device({"bytes_limit": 64 * GIB}, "Tesla T4", local_hardware_id=0), 16 * GIB),
        (Device({"bytes_limit": 30 * GIB}, "NVIDIA L40S", local_hardware_id=7), 30 * GIB),
        (Device(None), 80 * GIB),  # XLA_PYTHON_CLIENT_ALLOCATOR=platform
        (Device({}, "NVIDIA L40S", local_hardware_id=0), 16 * GIB),
        (Device(None, local_hardware_id=7), target.H100.memory),
        (Device(NOT_HERE, local_hardware_id=0), target.H100.memory),  # compiled for, beside another card
        (Device(NOT_HERE, "NVIDIA L40S", local_hardware_id=0), None),
        (Device(None, "NVIDIA L40S", local_hardware_id=7), None),
        (Device({"bytes_limit": 15 * GIB}, "TPU v5 lite", "tpu", 0), 15 * GIB),
        (Device(None, "TPU v5 lite", "tpu", 0), None),
    ],
)
def test_memory_is_what_jax_may_take_of_what_there_is(cards, device, memory):
    assert target.of(device).memory == memory


def test_where_memory_is_unknown_only_a_budget_of_the_device_is_refused(cards):
    unknown = Device(None, "NVIDIA L40S", local_hardware_id=7)
    with pytest.raises(UserError, match=r"how much memory NVIDIA L40S has is not known.*--memory-budget"):
        budget.of_device(target.of(unknown))
    assert devices.fits(10_000, unknown)


def test_a_process_plans_for_a_device_of_its_own(monkeypatch):
    mine = jax.devices()[3]
    monkeypatch.setattr(jax, "local_devices", lambda: [mine])
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("the first is another process's"))
    asked = []
    monkeypatch.setattr(target, "of", asked.append)
    target.current()
    assert asked == [mine]
