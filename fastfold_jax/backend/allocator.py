"""How much of a GPU's memory JAX may take."""

import functools
import logging
import os

from fastfold_jax.backend.cards import memory_of_cards

logger = logging.getLogger(__name__)

NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")

_MOST, _LEAST = 0.95, 0.5
_BESIDE = 2 * 2**30  # bytes left to CUDA's context, code, and libraries that allocate by themselves


def claim_memory() -> None:
    """Lets JAX take nearly all of each GPU and not three quarters, unless the environment says how much it may.

    It has to be called before the process uses a device; later it changes nothing.
    """
    given = next((name for name in NAMES if os.environ.get(name)), None)
    if given is None:
        os.environ[NAMES[0]] = str(_fraction())
    else:
        _check(given, os.environ[given])


def _fraction() -> float:
    """The share of the smallest GPU that others than the allocator do not need; a small GPU leaves less of it."""
    sizes = [size for size in memory_of_cards() if size]
    return round(max(_LEAST, min([_MOST, *(1 - _BESIDE / size for size in sizes)])), 3)


@functools.cache
def _check(name: str, value: str) -> None:
    """Warns, once, of more memory than there is, which setups of AlphaFold and ColabFold ask for."""
    try:
        above = float(value) > 1
    except ValueError:
        return  # JAX refuses it
    if above:
        logger.warning(
            "%s=%s lets JAX take more memory than a GPU has, the rest from the host, which is slow. Plans are made for "
            "what the GPU has; unset it, and TF_FORCE_UNIFIED_MEMORY",
            name,
            value,
        )
