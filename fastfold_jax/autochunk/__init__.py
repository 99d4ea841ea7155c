"""Memory that fits, chosen by the program: parts of a JAX function run chunk by chunk until it meets a budget."""

from fastfold_jax.autochunk.api import BudgetError, Chunked, autochunk

__all__ = ["BudgetError", "Chunked", "autochunk"]
