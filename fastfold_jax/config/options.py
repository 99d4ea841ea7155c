"""What the option groups of the command line share: help texts, checks of numbers, and where files are kept."""

import functools
import os
from pathlib import Path
from typing import Any

import tyro

from fastfold_jax import checks
from fastfold_jax.errors import UserError


def option(text: str, *, metavar: str | None = None, default: str | None = None) -> Any:
    """What the help says about an option; `default` in words where its value would not tell."""
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=default and f"(default: {default})")


def cache_directory(name: str, given: Path | None, *, off: bool) -> Path | None:
    """Where this program keeps what it need not make again: by default in the user's cache directory; None if `off`."""
    if off:
        return None
    return given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastfold-jax" / name


def _option(name: str, value: Any) -> str:
    return f"--{name.replace('_', '-')} {value}"


at_least = functools.partial(checks.at_least, written=_option)
"""`checks.at_least` for options: the error names them as the command line does."""


def positive(**values: float) -> None:
    """Raises a `UserError` that names the option unless each value is finite and above 0."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{_option(name, value)}: accepted are numbers above 0")
