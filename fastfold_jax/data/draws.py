"""Random numbers that are the same on every machine, thread count and NumPy version."""

import numpy as np
from jaxtyping import Float64, Int, UInt64


class Draws:
    """One random stream, named by integers: equal names give equal numbers.

    NumPy promises the raw output of a bit generator forever, but not how `Generator` turns it into numbers, so the few
    distributions that featurisation needs are made here from the raw output.

    Args:
        name: seed and whatever tells this stream from others (pass, ensemble member, purpose); none negative. Names
            that differ only in zeros at their end give the same stream.
    """

    def __init__(self, *name: int):
        self._bits = np.random.PCG64(np.random.SeedSequence([int(part) for part in name]))

    def raw(self, count: int) -> UInt64[np.ndarray, " count"]:
        """Uniform 64-bit integers."""
        return np.asarray(self._bits.random_raw(count), np.uint64)

    def uniform(self, count: int) -> Float64[np.ndarray, " count"]:
        """Uniform in [0, 1), multiples of 2^-53."""
        return (self.raw(count) >> np.uint64(11)) * 2.0**-53

    def below(self, limits: Int[np.ndarray, " count"]) -> Int[np.ndarray, " count"]:
        """Uniform integers, each from 0 to below its own limit (at least 1, below 2^31)."""
        return ((self.raw(len(limits)) >> np.uint64(32)) * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)

    def permutation(self, count: int) -> Int[np.ndarray, " count"]:
        """A uniform random order of 0 .. count - 1."""
        return np.argsort(self.raw(count), kind="stable")
