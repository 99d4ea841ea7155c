"""Which implementation of an operation runs, and why."""

from collections.abc import Callable, Mapping
from typing import Literal

Implementation = Literal["auto", "triton", "mosaic", "xla"]


class ImplementationUnavailable(ValueError):
    """An implementation asked for by name that an operation does not have."""


def select(op: str, implementations: Mapping[str, Callable], asked: str) -> Callable:
    """The implementation of `op` to call.

    Args:
      op: Name of the operation, for the message.
      implementations: Those the operation has, by name. `xla` is always among them.
      asked: One by name, or `auto` for the best there is.

    Raises:
      ImplementationUnavailable: if one is asked for by name that the operation lacks. `auto` never raises.
    """
    if asked == "auto":
        return implementations["xla"]
    if asked not in implementations:
        raise ImplementationUnavailable(
            f"{op} has no {asked!r} kernel; accepted are auto, {', '.join(implementations)}"
        )
    return implementations[asked]
