"""Windows: which part of an array a step needs, for a chunk whose place is known only while the loop runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax import lax


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The loop's chunk on a dimension: from `scale * start + offset`, `scale * size` long, of a chunk [start, size]."""

    scale: int = 1
    offset: int = 0

    def place(self, start: Any, size: int) -> tuple[Any, int]:
        """Start and length."""
        return start * self.scale + self.offset, self.scale * size


@dataclasses.dataclass(frozen=True)
class Fixed:
    """The same part for every chunk."""

    start: int
    length: int

    def place(self, start: Any, size: int) -> tuple[Any, int]:
        """Start and length."""
        return self.start, self.length


Span = Chunk | Fixed
Window = tuple[tuple[int, Span], ...]
"""(dimension, span) in order; dimensions that are not mentioned are whole."""

WHOLE: Window = ()


def window(spans: dict[int, Span]) -> Window:
    """A window from its spans."""
    return tuple(sorted(spans.items(), key=lambda item: item[0]))


def moving(w: Window) -> bool:
    """Whether it depends on the chunk."""
    return any(isinstance(span, Chunk) for _, span in w)


def chunk_part(w: Window) -> Window:
    """What is left when fixed spans are widened to the whole dimension."""
    return tuple(item for item in w if isinstance(item[1], Chunk))


def extent(shape: Sequence[int], w: Window, size: int) -> tuple[int, ...]:
    """Shape of the window of an array, for chunks of `size`."""
    lengths = list(shape)
    for dim, span in w:
        lengths[dim] = span.place(0, size)[1]
    return tuple(lengths)


def cut(x: Any, w: Window, start: Any, size: int, *, cut_already: Window = WHOLE) -> Any:
    """The window of an array.

    Args:
      cut_already: The window that `x` itself is; its spans in `w` are skipped.
    """
    for dim, span in w:
        if (dim, span) in cut_already:
            continue
        begin, length = span.place(start, size)
        if length == x.shape[dim]:
            continue
        if isinstance(span, Fixed):
            x = lax.slice_in_dim(x, begin, begin + length, axis=dim)
        else:
            x = lax.dynamic_slice_in_dim(x, begin, length, axis=dim)
    return x


def put(x: Any, part: Any, w: Window, start: Any, size: int) -> Any:
    """`x` with its window, which is cut along one dimension, replaced."""
    ((dim, span),) = w
    return lax.dynamic_update_slice_in_dim(x, part, span.place(start, size)[0], axis=dim)
