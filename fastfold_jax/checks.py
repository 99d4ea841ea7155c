"""Checks of settings that are given from Python; `config/options.py` has those of the command line's options."""

import datetime
from collections.abc import Callable
from typing import Any

from fastfold_jax.errors import UserError


def _setting(name: str, value: Any) -> str:
    return f"{name}={value}"


def at_least(least: int, *, written: Callable[[str, Any], str] = _setting, **settings: int | None) -> None:
    """Raises a `UserError` that names the setting unless each value is None or a number from `least` on.

    Args:
      written: How a name and its value are written where they were given.
    """
    for name, value in settings.items():
        if value is not None and value < least:
            raise UserError(f"{written(name, value)}: accepted are numbers from {least}")


def share(**settings: float) -> None:
    """Raises a `UserError` that names the setting unless each value is from 0 to 1."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value}: accepted are numbers from 0 to 1")


def iso_date(text: str | None, name: str) -> datetime.date | None:
    """The date that a text such as 2018-04-30 gives, None for None.

    Raises:
      UserError: if it is neither; names the setting or option.
    """
    if text is None:
        return None
    try:
        date = datetime.date.fromisoformat(text)
        if date.isoformat() == text:  # and not 20180430, which is accepted too
            return date
    except ValueError:
        pass
    raise UserError(f"{name} {text}: accepted are dates such as 2018-04-30")
