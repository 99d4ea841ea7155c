"""Fixtures of the tests of search."""

import pytest
from targets import databases, proteins

from fastfold_jax.search.config import SearchOptions

__all__ = ["databases", "proteins"]


@pytest.fixture
def options(databases, tmp_path) -> SearchOptions:
    """Local search in all sample databases, with a cache of its own."""
    return SearchOptions(databases=(databases,), search_cache=tmp_path / "cache", search_threads=2)
