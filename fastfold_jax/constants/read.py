"""Reads the tab-separated tables of this package, and makes their arrays read-only."""

from importlib import resources

import numpy as np


def read_rows(table: str) -> tuple[tuple[str, ...], ...]:
    """The rows of `tables/<table>.tsv` as tuples of columns, comment lines (#) left out."""
    text = (resources.files("fastfold_jax.constants") / "tables" / f"{table}.tsv").read_text(encoding="utf-8")
    return tuple(tuple(line.split("\t")) for line in text.splitlines() if line and not line.startswith("#"))


def words(column: str) -> tuple[str, ...]:
    """The words of a column; '-' stands for none."""
    return () if column == "-" else tuple(column.split())


def frozen(array: np.ndarray) -> np.ndarray:
    """The same array, read-only: a constant that someone writes to would change every later computation."""
    array.flags.writeable = False
    return array
