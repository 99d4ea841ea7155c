"""Where `use_compile_cache` was before training needed it too."""

from fastfold_jax.backend.compile_cache import use_compile_cache

__all__ = ["use_compile_cache"]
