"""How much memory the GPUs have that this process may use, as NVIDIA's driver tells it."""

import ctypes
import functools

_DRIVER = "libcuda.so.1"


@functools.cache
def memory_of_cards() -> tuple[int, ...]:
    """Bytes of each GPU in CUDA's order, all of its memory whoever uses it; none where there is no driver or no GPU.

    The driver reads CUDA_VISIBLE_DEVICES when it is first asked, by this or by JAX.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        return tuple(_memory(driver, ordinal) for ordinal in range(count.value))
    except (OSError, AttributeError):  # no such library, or one without these functions
        return ()


def memory_of_card(ordinal: int | None) -> int | None:
    """Bytes of one GPU; None where that is not known."""
    cards = memory_of_cards()
    found = cards[ordinal] if ordinal is not None and 0 <= ordinal < len(cards) else 0
    return found or None


def _memory(driver: ctypes.CDLL, ordinal: int) -> int:
    """Bytes, 0 where the driver does not tell."""
    device, size = ctypes.c_int(), ctypes.c_size_t()
    if driver.cuDeviceGet(ctypes.byref(device), ordinal):
        return 0
    return 0 if driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value
