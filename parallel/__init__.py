"""Dynamic Axial Parallelism: one protein on many devices."""

from parallel.axis import Axis

__all__ = ["Axis"]
