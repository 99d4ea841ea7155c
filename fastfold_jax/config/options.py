"""What the option groups of the command line share: help texts, checks of numbers, and where files are kept."""

import os
from pathlib import Path
from typing import Any

import tyro

from fastfold_jax.errors import UserError


def option(text: str, *, metavar: str | None = None, default: str | None = None) -> Any:
    """What the help says about an option; `default` in words where its value would not tell."""
    return tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=default and f"(default: {default})")


def cache_directory(name: str) -> Path:
    """Where this program keeps what it need not make again: a directory in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastfold-jax" / name


def at_least(least: int, **values: int | None) -> None:
    """Raises a `UserError` that names the option unless each value is None or a number from `least` on."""
    for name, value in values.items():
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: accepted are numbers from {least}")


def positive(**values: float) -> None:
    """Raises a `UserError` that names the option unless each value is finite and above 0."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} {value}: accepted are numbers above 0")
