"""How deep an alignment is at each residue, and how alike its rows are to the query."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fastfold_jax.constants import GAP
from fastfold_jax.data.raw import RawFeatures

IDENTITY_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ROWS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """The alignment that a prediction started from.

    Attributes:
      rows: Rows, the query included.
      depth: [bins, n] rows with a letter at each residue, by their identity to the query: a row belongs to bin b if
        its identity lies from `IDENTITY_EDGES[b]` up to the next edge.
    """

    rows: int
    depth: Int[np.ndarray, "bins n"]

    @property
    def per_residue(self) -> Int[np.ndarray, " n"]:
        """Rows with a letter at each residue."""
        return self.depth.sum(axis=0)

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {"rows": self.rows, "identity_edges": list(IDENTITY_EDGES), "depth": self.depth.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Coverage":
        """The inverse."""
        return cls(rows=content["rows"], depth=np.array(content["depth"], np.int64))


def coverage_of(raw: RawFeatures) -> Coverage:
    """Counts the alignment of a job, masked entries left out."""
    bins = len(IDENTITY_EDGES) - 1
    depth = np.zeros((bins, raw.num_res), np.int64)
    for start in range(0, raw.num_rows, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        there = (raw.msa[rows] != GAP) & raw.msa_mask[rows]
        bin_of = np.minimum((_identity(raw.msa[rows], raw.msa[0], there) * bins).astype(int), bins - 1)
        for b in range(bins):
            depth[b] += there[bin_of == b].sum(axis=0)
    return Coverage(rows=raw.num_rows, depth=depth)


def _identity(rows: Int[np.ndarray, "r n"], query: Int[np.ndarray, " n"], there: np.ndarray) -> Float[np.ndarray, " r"]:
    """Share of equal letters among the columns that each row covers; 0 for a row that covers none."""
    return ((rows == query) & there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
