"""From a command line to a configuration; what is wrong with it is told in one line, as all that a user can cause."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from fastfold_jax.errors import UserError

Config = TypeVar("Config")

_NONE: Mapping[str, str] = MappingProxyType({})
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(kind: type[Config], program: str, argv: Sequence[str] | None, elsewhere: Mapping[str, str] = _NONE) -> Config:
    """The configuration that a command line gives.

    Args:
      kind: Dataclass of the configuration; nested ones are groups of options.
      program: The command's name.
      argv: The command line, by default the process's.
      elsewhere: Options of other programs, without dashes in front, and what they are here.

    Raises:
      UserError: if there are options that do not exist, or values that are not accepted.
      SystemExit: after --help, with 0.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _refuse([word for word in words if _name(word) in elsewhere], kind, elsewhere)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config, unknown = tyro.cli(kind, prog=program, args=words, return_unknown_args=True)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise UserError(_cause(exit_) or _first_part(said.getvalue())) from None
    _refuse([word for word in unknown if word.startswith("-")] or unknown, kind, elsewhere)
    return config


def _name(word: str) -> str | None:
    """The option's name in a word of a command line, if it is one."""
    return word[2:].partition("=")[0].replace("_", "-") if word.startswith("--") else None


def _refuse(words: Sequence[str], kind: type, elsewhere: Mapping[str, str]) -> None:
    """Raises a `UserError` that says what the words might have meant, if there are any."""
    known = list(option_names(kind))
    told = []
    for word in words:
        name = _name(word) or word
        alike = difflib.get_close_matches(name, known, n=1)
        hint = f", perhaps --{alike[0]}" if alike else ""
        told.append(f"{word.partition('=')[0]}: " + (elsewhere.get(name) or f"no such option{hint}; see --help"))
    if told:
        raise UserError("; ".join(dict.fromkeys(told)))


def option_names(kind: Any) -> Iterator[str]:
    """Names of all options of a configuration, and of the groups and sub-commands in it."""
    for name, hint in get_type_hints(kind).items():
        groups = [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]
        for group in groups:
            yield from option_names(group)
        if not groups:
            yield name.replace("_", "-")


def _cause(error: BaseException | None) -> str | None:
    """What our own checks said that led to an error, if they did."""
    while error is not None and not isinstance(error, UserError):
        error = error.__context__
    return None if error is None else str(error)


def _first_part(box: str) -> str:
    """The first part of the box that tyro draws around its messages, in one line; the others repeat the help."""
    words: list[str] = []
    for line in _COLOUR.sub("", box).splitlines():
        text = line.strip("│ ")
        if line.startswith(("╭", "╰")):
            continue
        if text and not text.strip("─"):
            break
        words += text.split()
    text, _, alternatives = " ".join(words).removeprefix("Error parsing ").partition(". Got errors: ")
    if not alternatives:
        return text
    # Of an option that may be left out; that it is not None goes without saying.
    return f"{text.partition(':')[0]}: {alternatives.rpartition(' - ')[2].partition(': ')[2]}"
