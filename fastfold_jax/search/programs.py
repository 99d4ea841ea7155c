"""Running search programs that are installed beside this one."""

import logging
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fastfold_jax.errors import UserError
from fastfold_jax.search.report import Report

logger = logging.getLogger(__name__)

_GLANCE = 0.5  # seconds between two looks at whether to stop


class Program(Protocol):
    """An external program that makes alignments."""

    def version(self) -> str:
        """Its name and version; a new one makes kept results void."""

    def settings(self) -> str:
        """The options that its results depend on."""

    def search(self, sequences: Sequence[str], databases: Sequence[Path], threads: int, report: Report) -> list[bytes]:
        """An A3M of each sequence with its hits."""


def locate(program: str, *, option: str, package: str) -> str:
    """The file of a program.

    Raises:
      UserError: if there is none, naming the option that says where it is.
    """
    found = shutil.which(program)
    if found is None:
        raise UserError(
            f"{option} {program}: no such program; install {package}, say where it is with {option}, or give databases "
            "as FASTA files, which need no program"
        )
    return found


def run(command: Sequence[str], *, cwd: Path, stop: threading.Event) -> str:
    """Runs a program to its end, and returns what it printed; ends it early once `stop` is set.

    Raises:
      UserError: if it fails, with the last lines that it wrote.
    """
    logger.debug("running %s", " ".join(command))
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
        )
    except OSError as error:
        raise UserError(f"{command[0]}: cannot be run ({error.strerror or error})") from None
    with process:
        while True:
            try:
                output, errors = process.communicate(timeout=_GLANCE)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    process.kill()
    if process.returncode:
        said = " | ".join((errors.strip() or output.strip()).splitlines()[-5:]) or "it said nothing"
        raise UserError(f"{' '.join(command)}: failed with exit status {process.returncode}: {said}")
    return output


def read_result(path: Path, *, program: str) -> bytes:
    """The file that a program should have made.

    Raises:
      UserError: if it has not, or an empty one.
    """
    data = path.read_bytes() if path.is_file() else b""
    if not data.strip(b"\0 \n"):
        raise UserError(f"{program}: ended without an error, but made no alignment ({path.name})")
    return data


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A directory for a program's files, gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="fastfold-search-", ignore_cleanup_errors=True)
