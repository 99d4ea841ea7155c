"""How many bytes a program may take: a number, what the device has, or as few as are worth it."""

import math
from typing import Literal

from fastfold_jax.autochunk.target import Target
from fastfold_jax.errors import UserError

Budget = int | Literal["device", "min"]

CLASSES_AN_OCTAVE = 8
# Of what the allocator may use: code, libraries' workspaces and fragmentation take the rest.
DEVICE_FRACTION = 0.94


class BudgetError(UserError):
    """A budget that no plan meets.

    Attributes:
      budget, smallest: Bytes asked for, and the least that a plan was found for.
    """

    def __init__(self, budget: int, smallest: int):
        self.budget, self.smallest = budget, smallest
        super().__init__(
            f"a memory budget of {gib(budget)} cannot be met: the smallest found is {gib(smallest)} "
            f"({smallest} bytes), arguments and results included"
        )


def checked(budget: Budget) -> Budget:
    """The budget.

    Raises:
      UserError: if it is neither `device`, `min`, nor a positive number of bytes.
    """
    if budget in ("device", "min") or (isinstance(budget, int) and not isinstance(budget, bool) and budget > 0):
        return budget
    raise UserError(f"memory_budget={budget!r}: accepted are a positive whole number of bytes, 'device' and 'min'")


def from_gib(flag: str, text: str, *words: str) -> int:
    """The bytes that the text of an option stands for.

    Args:
      words: What else the option takes, for the message.

    Raises:
      UserError: if it is no positive number of GiB.
    """
    try:
        size = int(float(text) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UserError(
            f"{flag} {text}: accepted are {''.join(f'{word}, ' for word in words)}and a number of GiB above 0"
        )
    return size


def rounded_down(size: float) -> int:
    """The next smaller of a fixed series of sizes, 8 an octave.

    What happens to be free on a device differs from run to run; the program should not.
    """
    if size < 1:
        return 0
    octave = math.floor(math.log2(size))
    step = math.floor((math.log2(size) - octave) * CLASSES_AN_OCTAVE)
    return int(2 ** (octave + step / CLASSES_AN_OCTAVE))


def of_device(target: Target) -> int:
    """What a program may take of the device's memory.

    Raises:
      UserError: if it is not known how much that is.
    """
    if target.memory is None:
        raise UserError(
            f"how much memory {target.name} has is not known: neither JAX's allocator nor NVIDIA's driver says; give a "
            "budget: --memory-budget with a number of GiB, from Python memory_budget in bytes"
        )
    return rounded_down(target.memory * DEVICE_FRACTION)


def gib(size: float) -> str:
    """Bytes in words."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size:.0f} bytes"
