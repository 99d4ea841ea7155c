"""Writes alignments as A3M."""

import numpy as np

from fastfold_jax.constants import MSA_LETTERS
from fastfold_jax.data.alignment import Alignment

_LETTERS = np.frombuffer(MSA_LETTERS.encode(), np.uint8)
_INSERTED = ord("x")


def a3m_text(alignment: Alignment) -> bytes:
    """An alignment as A3M that `parse_a3m` reads as the same.

    Inserted letters are not known, only how many there were; each is written as ``x``. Of letters that the model takes
    for others (B, Z, U, J, O) the query's own are kept.
    """
    letters = _LETTERS[alignment.residues]
    if alignment.query:
        letters[0] = np.frombuffer(alignment.query.encode(), np.uint8)
    lines = []
    for description, row, deletions in zip(alignment.descriptions, letters, alignment.deletions, strict=True):
        places = np.cumsum(deletions.astype(np.int64) + 1) - 1
        whole = np.full(places[-1] + 1, _INSERTED, np.uint8)
        whole[places] = row
        lines.append(b">%b\n%b\n" % (description.encode(), whole.tobytes()))
    return b"".join(lines)
