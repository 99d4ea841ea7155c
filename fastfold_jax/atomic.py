"""Files that other processes see whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the name once all of it is written; after any error what had the name keeps it.

    Until then it is a hidden one beside it, `.NAME.TOKEN.PROCESS.partial`: writers of the same file, in this process or
    others, do not meet, and what a killed process left is told from what a running one writes.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
