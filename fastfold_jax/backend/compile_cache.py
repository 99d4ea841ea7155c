"""Compiled programs kept on disk, by JAX."""

import logging
import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

logger = logging.getLogger(__name__)


def use_compile_cache(directory: Path | None) -> None:
    """Keeps every program compiled from now on in the directory; None keeps none."""
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("no compile cache: %s cannot be made (%s)", directory, error.strerror)
            directory = None
    if directory is not None and not os.access(directory, os.W_OK):
        logger.warning("no compiled program is kept: %s cannot be written to", directory)
    jax.config.update("jax_compilation_cache_dir", None if directory is None else str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    reset_cache()  # JAX looks for a directory once, when it first compiles: in a notebook long before
