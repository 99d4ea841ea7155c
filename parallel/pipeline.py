"""Duality Async: slabs go through steps of compute and exchange, so that one slab is computed while another travels.

What runs side by side is a matter of data dependence alone: XLA starts a collective, goes on with what does not depend
on it, and waits where its result is needed. But left to itself it computes all slabs first and then exchanges all of
them. So the ticks of a pipeline are separated by barriers, through which the derivative keeps the same order backwards.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jax import lax

Step = Callable[[int, Any], Any]
"""Takes a slab's number and its value; computes or exchanges it."""


def pipeline(slabs: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
    """Every slab through all steps, in a tick each; at any tick other slabs are at other steps.

    Args:
      slabs: Pytrees. With a single one there is nothing to separate, and the steps follow each other.
      steps: Compute and exchange in turn, compute first; what a step closes over must be ready before.

    Returns:
      What came out of the last step for each slab.
    """
    values = list(slabs)
    count, ticks = len(values), len(values) + len(steps) - 1
    for tick in range(ticks):
        running = [tick - step for step in range(len(steps)) if 0 <= tick - step < count]
        for slab in running:
            values[slab] = steps[tick - slab](slab, values[slab])
        if count > 1 and tick < ticks - 1:
            # Slabs that join at the next tick are held back as well: XLA would begin their compute in this one.
            held = sorted({*running, *([tick + 1] if tick + 1 < count else [])})
            tied = lax.optimization_barrier([values[slab] for slab in held])
            for slab, value in zip(held, tied, strict=True):
                values[slab] = value
    return values
