"""When recycling stops, and the thread that makes the next pass's features meanwhile."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.inference.config import RecyclingOptions, StopRule
from fastfold_jax.inference.result import PassRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recycling:
    """How many passes to make.

    Attributes:
      num_recycles: Most passes after the first.
      tolerance: Å, or None to make them all.
      rule: `deepmind`: when a pass changed the Cα distances by at most the tolerance, make one more and stop (the
        released AlphaFold-Multimer's loop, whose last pass stands outside it). `colabfold`: stop at that pass.
    """

    num_recycles: int
    tolerance: float | None = None
    rule: StopRule = "deepmind"

    @classmethod
    def of(cls, options: RecyclingOptions, config: ModelConfig) -> "Recycling":
        """The user's wishes, else the model's own."""
        recycles, tolerance = options.recycles, options.recycle_tolerance
        tolerance = config.recycle_tolerance if tolerance is None else tolerance
        return cls(
            num_recycles=config.num_recycles if recycles is None else recycles,
            tolerance=tolerance or None,
            rule=options.recycle_stop,
        )

    @property
    def num_passes(self) -> int:
        """Most passes in all."""
        return self.num_recycles + 1

    def is_last(self, passes: Sequence[PassRecord]) -> bool:
        """Whether the latest of the passes made so far was the last."""
        if len(passes) >= self.num_passes:
            return True
        if self.tolerance is None:
            return False
        # The first pass has none before it to have changed from. DISCREPANCY: DeepMind's loop compares it with the
        # zeros that recycling starts from; that difference is the protein's own size, above any tolerance.
        deciding = passes[1:-1] if self.rule == "deepmind" else passes[1:]
        return bool(deciding) and deciding[-1].change <= self.tolerance


class FeatureStream:
    """The features of pass 0, 1, ..., each made in a thread while the pass before it runs.

    The first is begun at once, so that it is made while parameters are read and the program is compiled. A context
    manager: leaving it drops features that no pass has taken.

    Args:
      make: Makes the features of a pass from its index.
      num_passes: Most passes.
    """

    def __init__(self, make: Callable[[int], Features], num_passes: int):
        self._make = make
        self._num_passes = num_passes
        self._next = 0
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="features")
        self._future: concurrent.futures.Future[Features] | None = None
        self._submit()

    def __enter__(self) -> "FeatureStream":
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        self._future = self._pool.submit(self._make, self._next) if self._next < self._num_passes else None
        self._next += 1

    def peek(self) -> Features:
        """The features that `take` will return, which stay there.

        Raises:
          IndexError: after the last pass.
        """
        if self._future is None:
            raise IndexError(f"all {self._num_passes} passes have been taken")
        return self._future.result()

    def take(self) -> Features:
        """The next pass's features; begins with those after them."""
        features = self.peek()
        self._submit()
        return features
