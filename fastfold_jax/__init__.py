"""FastFold-JAX: AlphaFold 2 in JAX. Importing this package loads JAX only when it is used, and starts no backend."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfold_jax.inference.predictor import JobResult, Prediction, Predictor

__all__ = ["JobResult", "Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("fastfold_jax.inference.predictor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
