"""FastFold-JAX: AlphaFold 2 in JAX. Importing this package starts no JAX backend, and loads JAX only when it is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastfold_jax.inference.api import JobResult, Prediction, Predictor

__all__ = ["JobResult", "Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fastfold_jax.inference import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
