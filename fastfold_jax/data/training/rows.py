"""Which rows of an alignment one training example sees: blocks of it deleted, or few of it drawn.

AlphaFold 2 supplement, Algorithm 1 and section 1.3. Both return indices of rows, ascending, the query's among them.
"""

import numpy as np
from jaxtyping import Int

from fastfold_jax.data.draws import Draws


def without_blocks(num_rows: int, draws: Draws, *, fraction: float = 0.3, blocks: int = 5) -> Int[np.ndarray, " kept"]:
    """All rows but some runs of neighbours, which in a sorted alignment are relatives of each other (Algorithm 1).

    Args:
        num_rows: rows of the alignment.
        draws: the random stream.
        fraction: of the rows in one block.
        blocks: how many are deleted; they may overlap.
    """
    length = int(num_rows * fraction)
    kept = np.ones(num_rows, bool)
    for start in draws.below(np.full(blocks, num_rows)):
        kept[start : start + length] = False
    kept[0] = True
    return np.flatnonzero(kept)


def few(num_rows: int, most: int, draws: Draws) -> Int[np.ndarray, " kept"]:
    """The query and a uniform choice of other rows, at most so many (self-distillation, section 1.3)."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.concatenate([[0], 1 + np.sort(draws.permutation(num_rows - 1)[: most - 1])])
