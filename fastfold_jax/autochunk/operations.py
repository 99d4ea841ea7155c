"""Named operations of a program and which of their dimensions may be computed piece by piece, as data."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive

Dimensions = tuple[Any, str]
"""((dimensions of each argument, nested like the arguments), dimensions of the result).

Dimensions are words: a name that the result and an argument share may be cut, together, without changing any element;
`.` stands for one that must be whole; `*b` for any number of leading dimensions, `*#b` where those may have length 1.
"""


@dataclasses.dataclass(frozen=True)
class OperationRule:
    """What AutoChunk knows of an operation.

    Attributes:
      dimensions: Names of dimensions, see `Dimensions`. None for an operation that is not cut where it is a kernel.
      reference: The operation in plain JAX, called like the primitive: `reference(*leaves, treedef=..., static=...)`.
      fused: Whether it runs as one kernel for a given platform, parameters and result. Where it does not, `reference`
        takes its place, so that cuts can be finer than the operation.
      residual: Whether the result is the first argument and something added to it, so that it may take its memory.
    """

    dimensions: Dimensions | None
    reference: Callable[..., Any]
    fused: Callable[..., bool] = lambda platform, **params: False
    residual: bool = False


OPERATIONS: dict[Primitive, OperationRule] = {}
"""Rules of the operations that have declared them."""


def register(primitive: Primitive, rule: OperationRule) -> None:
    """Makes an operation known. Its equations have the parameters `treedef`, of the arguments, and `static`."""
    OPERATIONS[primitive] = rule
