"""Search results kept by what they are the result of."""

import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from fastfold_jax.atomic import replacing

logger = logging.getLogger(__name__)

_MAGIC = b"\x1f\x8b"  # that a gzip file begins with


class Cache:
    """Texts by key, each a gzip file in a directory, whose checksum tells a damaged one from a whole one.

    A result gets its name once it is on the disk, so a process that is killed leaves no half of one; processes that
    write the same result at once write the same file. A cache that can't be written costs a warning, not the result.

    Args:
      directory: Where they are kept, made if need be; None keeps nothing.
    """

    def __init__(self, directory: Path | None):
        self._directory = directory

    @staticmethod
    def key(**parts: str | int | float | bool | list[str] | Mapping[str, str] | None) -> str:
        """A key from everything that a result depends on."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> bytes | None:
        """The text, or None where there is none or a damaged one."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            data = path.read_bytes()
            if not data.startswith(_MAGIC):
                raise EOFError("no gzip file")
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            logger.warning("%s: a damaged search result (%s); it is made again", path, error)
            return None

    def put(self, key: str, text: bytes) -> None:
        """Keeps a text."""
        path = self._path(key)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(gzip.compress(text, compresslevel=1, mtime=0))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logger.warning("a search result cannot be kept: %s (%s)", path, error.strerror or error)

    def drop(self, key: str) -> None:
        """Forgets a text."""
        path = self._path(key)
        if path is not None:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path | None:
        return None if self._directory is None else self._directory / key[:2] / f"{key}.gz"
