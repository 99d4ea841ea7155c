"""Too little memory, told apart from other failures of a program."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from fastfold_jax.errors import UserError


@contextmanager
def memory_errors(kind: type[UserError], advice: str) -> Iterator[None]:
    """Turns the errors of XLA and Python that say that memory does not suffice into one that says what helps.

    Raises:
      UserError: of that kind, with "out of memory" in front of the advice.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise kind(f"out of memory {advice}") from error
        raise
