"""How much of a GPU JAX may take, and how large GPUs are, told by a driver that is not here."""

import ctypes
import os

import pytest

from fastfold_jax.backend import allocator, cards

GIB = 2**30


class Driver:
    """CUDA's driver with GPUs of so many bytes; the call named in `broken` fails."""

    def __init__(self, sizes, broken=""):
        self._sizes, self._broken = sizes, broken

    def _answer(self, name, pointer=None, value=None):
        if pointer is not None:
            pointer._obj.value = value
        return 100 if name == self._broken else 0

    def cuInit(self, flags):
        return self._answer("cuInit")

    def cuDeviceGetCount(self, count):
        return self._answer("cuDeviceGetCount", count, len(self._sizes))

    def cuDeviceGet(self, device, ordinal):
        return self._answer("cuDeviceGet", device, ordinal)

    def cuDeviceTotalMem_v2(self, size, device):
        return self._answer("cuDeviceTotalMem_v2", size, self._sizes[device.value])


@pytest.fixture
def driver(monkeypatch):
    """A function that puts a driver in the place of the real one, which is asked again."""

    def put(*arguments):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(*arguments))
        cards.memory_of_cards.cache_clear()

    yield put
    cards.memory_of_cards.cache_clear()


@pytest.fixture
def no_fraction(monkeypatch):
    for name in allocator.NAMES:
        monkeypatch.setenv(name, "")  # so that what a test sets ends with it
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def warned_of_nothing():
    allocator._check.cache_clear()


def test_the_driver_tells_sizes_in_its_order(driver):
    driver([16 * GIB, 80 * GIB])
    assert cards.memory_of_cards() == (16 * GIB, 80 * GIB)
    assert [cards.memory_of_card(ordinal) for ordinal in (0, 1, 2, -1, None)] == [16 * GIB, 80 * GIB, None, None, None]


@pytest.mark.parametrize("broken", ["cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceTotalMem_v2"])
def test_a_driver_that_fails_leaves_sizes_unknown(driver, broken):
    driver([16 * GIB], broken)
    assert cards.memory_of_card(0) is None


def test_without_a_driver_there_are_no_cards(monkeypatch):
    monkeypatch.setattr(cards, "_DRIVER", "libcuda.so.of.nowhere")
    cards.memory_of_cards.cache_clear()
    assert cards.memory_of_cards() == ()
    cards.memory_of_cards.cache_clear()


@pytest.mark.parametrize(
    ("sizes", "fraction"),
    [
        ([], "0.95"),
        ([80 * GIB, 141 * GIB], "0.95"),
        ([40 * GIB], "0.95"),
        ([16 * GIB], "0.875"),
        ([16 * GIB, 80 * GIB], "0.875"),  # one fraction holds for all
        ([2 * GIB], "0.5"),
    ],
)
def test_the_allocator_may_take_nearly_all_and_leaves_room_beside(no_fraction, driver, sizes, fraction):
    driver(sizes)
    allocator.claim_memory()
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == fraction


@pytest.mark.parametrize("name", allocator.NAMES)
def test_what_the_user_has_set_stays(no_fraction, monkeypatch, caplog, name):
    monkeypatch.setenv(name, "0.5")
    allocator.claim_memory()
    assert {n: os.environ[n] for n in allocator.NAMES if n in os.environ} == {name: "0.5"}
    assert not caplog.text


def test_more_than_there_is_stays_and_is_warned_of_once(no_fraction, monkeypatch, caplog):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "4.0")
    allocator.claim_memory()
    allocator.claim_memory()
    assert caplog.text.count("XLA_PYTHON_CLIENT_MEM_FRACTION=4.0 lets JAX take more memory than a GPU has") == 1
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ
