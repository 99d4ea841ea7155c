"""Checks the shapes in the packages' signatures while tests run; `conftest.py` switches it on before any import."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jaxtyping
import numpy as np
from beartype import beartype


def _is_shape(hint: Any) -> bool:
    """Whether a jaxtyping array stands in the hint, alone or in a union or container."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_is_shape(part) for part in get_args(hint))


def checked(function: Callable) -> Callable:
    """The function with its array arguments and results checked; what has no shape is mypy's to check."""
    hints = dict(getattr(function, "__annotations__", {}))
    shapes = {name: hint for name, hint in hints.items() if _is_shape(hint)}
    if not shapes:
        return function
    function.__annotations__ = shapes
    wrapper = beartype(function)
    function.__annotations__ = wrapper.__annotations__ = hints
    return wrapper


def switch_on(*packages: str) -> None:
    """Checks every annotated function of the packages from now on; they must not have been imported yet."""
    # Tests may hand over NumPy arrays where the packages say Array: JAX takes either.
    jaxtyping.Array = jax.Array | np.ndarray | np.generic
    jaxtyping.install_import_hook(packages, "shape_checks.checked")
