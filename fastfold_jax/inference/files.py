"""Writing files so that each appears whole or not at all, and saying why one cannot be written."""

import json
import tempfile
from pathlib import Path
from typing import Any

from fastfold_jax.atomic import replacing
from fastfold_jax.errors import UserError


class OutputError(UserError):
    """The output directory cannot be used."""


def prepare_directory(directory: Path) -> None:
    """Makes the directory if need be and proves that a file can be written there.

    Raises:
      OutputError: if it cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".writable-"):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to the output directory {directory}: {error.strerror}; give a directory that you may "
            "write to with --out"
        ) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file (text as UTF-8) that other processes see either whole or not at all.

    Raises:
      OutputError: if it cannot be written (no space, directory gone).
    """
    try:
        with replacing(path) as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def copy_atomically(source: Path, path: Path) -> None:
    """Copies a file so that others see either all of the copy or none."""
    write_atomically(path, source.read_bytes())


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """JSON, packed unless an indent asks for a file that people read."""
    separators = (",", ":") if indent is None else (",", ": ")
    write_atomically(path, json.dumps(content, separators=separators, indent=indent, allow_nan=False) + "\n")
