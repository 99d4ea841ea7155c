"""How much of a GPU's memory JAX may take."""

import os

_NAMES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_FRACTION = "0.95"


def claim_memory() -> None:
    """Lets JAX take nearly all of each GPU and not three quarters, unless the environment says how much it may.

    It has to be called before the process uses a device.
    """
    if not any(name in os.environ for name in _NAMES):
        os.environ[_NAMES[0]] = _FRACTION
