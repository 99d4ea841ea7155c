"""Compiled programs held to their budget: what XLA says it needs decides, and the plan is made again if it is over."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from fastfold_jax.autochunk import cache
from fastfold_jax.autochunk.budget import BudgetError, gib

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_MARGIN = 0.99

Compiled = TypeVar("Compiled")


def peak_bytes(compiled: Any) -> int:
    """What a compiled program needs at once on a device, by XLA's buffer assignment: arguments and results included."""
    stats = compiled.memory_analysis()
    return (
        stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
    )


def within(budget: int, build: Callable[[int], Compiled], *, name: str | None = None) -> Compiled:
    """Compiles for a budget; as long as XLA needs more, at most twice, compiles again for that much less.

    Args:
      build: Compiles a program chunked for a budget in bytes, such as
        `lambda budget: jax.jit(autochunk(f, budget)).lower(*args).compile()`.
      name: Of the plan for this budget. Where plans are kept on disk, a smaller budget that proved right is too, and
        the next time the program is compiled once.

    Returns:
      The first that fits, or else the smallest.

    Raises:
      BudgetError: if no plan meets the budget.
    """
    tried: list[tuple[int, Compiled]] = []
    planned_for = (name and cache.load_smaller(name)) or budget
    for _ in range(_ATTEMPTS):
        try:
            compiled = build(planned_for)
        except BudgetError:
            if not tried:
                raise
            break
        peak = peak_bytes(compiled)
        tried.append((peak, compiled))
        if peak <= budget:
            if name and planned_for < budget:
                cache.save_smaller(name, planned_for)
            return compiled
        logger.info("XLA needs %s for a budget of %s: planning again", gib(peak), gib(budget))
        planned_for = int(planned_for * budget / peak * _MARGIN)
    peak, compiled = min(tried, key=lambda item: item[0])
    logger.warning("the smallest program found needs %s, more than the budget of %s", gib(peak), gib(budget))
    return compiled
