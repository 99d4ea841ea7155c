"""Reading a user's text file whatever packed it or ended its lines, and saying where it is wrong."""

import gzip
import zlib
from pathlib import Path

from fastfold_jax.errors import UserError


class InputError(UserError):
    """A sequence, alignment or feature file, or a directory of them, that cannot be used."""


def at(file: str, line: int | None = None, column: int | None = None) -> str:
    """Where something is, for the beginning of a message: ``file, line 3, column 7`` (both counted from 1)."""
    place = file
    if line is not None:
        place += f", line {line}"
    if column is not None:
        place += f", column {column}"
    return place


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if gzip packed it (told by its first two bytes, not by its name).

    Raises:
        InputError: the file is missing, unreadable, or a damaged gzip file.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: a damaged or truncated gzip file ({error})") from None


def normalise(data: bytes, *, file: str) -> bytes:
    """The same text with Unix line ends and no byte-order mark, one newline at its end.

    Still bytes: the parsers look letters up in tables, and every letter that they accept is ASCII.

    Raises:
        InputError: there is nothing in it, or it is no text (a NUL byte, or not UTF-8).
    """
    # The public MMseqs2 server ends each alignment with a NUL, its database's record separator.
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\0")
    zero = data.find(b"\0")
    if zero >= 0:
        raise InputError(f"{file}: a binary file (a zero byte at offset {zero}), not text")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = 1 + data.count(b"\n", 0, error.start)
            raise InputError(
                f"{at(file, line)}: neither ASCII nor UTF-8 text "
                f"(byte 0x{data[error.start]:02x}); a binary file, or text in an older encoding: save it as UTF-8"
            ) from None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data or data.isspace():
        raise InputError(f"{file}: the file is empty")
    return data if data.endswith(b"\n") else data + b"\n"


def shown(text: bytes | str, limit: int = 40) -> str:
    """What the user wrote, quoted and cut to `limit` characters, safe to print on one line."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return repr(text if len(text) <= limit else text[:limit] + "...")
