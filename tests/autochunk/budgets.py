"""What the tests of AutoChunk share: functions in chunks at any cost in time, budgets, and programs of a given size."""

import functools
from collections.abc import Callable
from typing import Any

from fastfold_jax.autochunk.api import autochunk
from fastfold_jax.autochunk.target import CPU, Target

chunk = functools.partial(autochunk, target=CPU, max_slowdown=float("inf"))


def budget_of(function: Callable, arguments: Any, share: float, target: Target = CPU) -> int:
    """A budget: the arguments and a share of what else the whole function takes."""
    plan = chunk(function, 2**40, target=target).explain(*arguments)
    return max(1, int(plan.arguments + share * (plan.before - plan.arguments)))


class Compiled:
    """A compiled program that takes so many bytes, as `fit.within` looks at it."""

    def __init__(self, size: int):
        self.argument_size_in_bytes = size
        self.output_size_in_bytes = self.temp_size_in_bytes = self.alias_size_in_bytes = 0

    def memory_analysis(self) -> "Compiled":
        """Itself."""
        return self
