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


def pipeline(
    slabs: Sequence[Any], steps: Sequence[Step], beside: Sequence[Callable[[], Any]] = ()
) -> tuple[list[Any], list[Any]]:
    """Every slab through all steps, in a tick each; at any tick other slabs are at other steps.

    Args:
      slabs: Pytrees. With a single one there is nothing to separate, and the steps follow each other.
      steps: Compute and exchange in turn, compute first; what a step closes over must be ready before.
      beside: What has nothing to do with the slabs, such as another array's exchange; one a tick, from the first.

    Returns:
      What came out of the last step for each slab, and what came of `beside`.
    """
    values, others, waiting = list(slabs), [], list(beside)
    count, ticks = len(values), len(values) + len(steps) - 1
    for tick in range(ticks):
        running = [tick - step for step in range(len(steps)) if 0 <= tick - step < count]
        for slab in running:
            values[slab] = steps[tick - slab](slab, values[slab])
        begun = waiting if tick == ticks - 1 else waiting[:1]
        new, waiting = [run() for run in begun], waiting[len(begun) :]
        if count > 1 and tick < ticks - 1:
            # Slabs that join at the next tick are held back as well. Holding back only what the next tick computes with
            # was tried: XLA then merges work across ticks, and hides less.
            held = sorted({*running, *([tick + 1] if tick + 1 < count else [])})
            tied, new = lax.optimization_barrier(([values[slab] for slab in held], new))
            for slab, value in zip(held, tied, strict=True):
                values[slab] = value
        others += new
    return values, others
