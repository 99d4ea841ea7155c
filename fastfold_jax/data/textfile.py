"""Reading a user's text file whatever packed it or ended its lines, and saying where it is wrong."""

import dataclasses
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

from fastfold_jax.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
END = b"\0"
"""The public MMseqs2 server ends each alignment with a NUL, its database's record separator."""
PACKED = (".gz", ".xz", ".zst")
"""Suffixes behind the name of a packed file."""

_LINE = b"\n"
# What packed files begin with.
_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\0"
_ZSTD = b"\x28\xb5\x2f\xfd"


class InputError(UserError):
    """A sequence, alignment or feature file, or a directory of them, that cannot be used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unusable:
    """One of several things in a file (a record, a row, an entry) that cannot be used, where the others can.

    Attributes:
        name: what the file calls it.
        error: why.
    """

    name: str
    error: InputError


def also_packed(*suffixes: str) -> tuple[str, ...]:
    """Each suffix by itself and with each of `PACKED` behind it."""
    return tuple(suffix + packed for suffix in suffixes for packed in ("", *PACKED))


def at(file: str, line: int | None = None, column: int | None = None) -> str:
    """Where something is, for the beginning of a message: ``file, line 3, column 7`` (both counted from 1)."""
    place = file
    if line is not None:
        place += f", line {line}"
    if column is not None:
        place += f", column {column}"
    return place


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if need be (see `unpacked`).

    Raises:
        InputError: the file is missing or unreadable, or packed and damaged.
    """
    with opened(path) as file:
        return file.read()


def read_head(path: Path, size: int) -> bytes:
    """The first bytes of a file, as `read_bytes` reads it.

    Raises:
        InputError: as there.
    """
    with opened(path) as file:
        return file.read(size)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read from, unpacked if need be (see `unpacked`); errors of reading it inside are `InputError`s.

    Raises:
        InputError: the file is missing or unreadable, or packed and damaged.
    """
    try:
        with path.open("rb") as file, unpacked(file, path) as text:
            yield text
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def unpacked(file: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """The text of a file that gzip, xz or zstd packed, which its first bytes tell, not its name; else the file itself.

    It is unpacked as it is read; a pipe, which cannot be gone back in, is read at once. Errors of unpacking it inside
    are `InputError`s.

    Raises:
        InputError: the file is damaged or truncated, or packed by zstd, and there is no package that unpacks that.
    """
    if not file.seekable():
        file = io.BytesIO(file.read())
    head = file.read(len(_XZ))
    file.seek(0)
    unpack: Callable[[BinaryIO], Any]
    damage: tuple[type[Exception], ...]
    if head.startswith(_GZIP):
        packer, unpack, damage = "gzip", gzip.open, (EOFError, zlib.error, gzip.BadGzipFile)
    elif head == _XZ:
        packer, unpack, damage = "xz", lzma.open, (EOFError, lzma.LZMAError)
    elif head.startswith(_ZSTD):
        zstd = _zstd(path)
        packer, unpack, damage = "zstd", zstd.open, (EOFError, zstd.ZstdError)
    else:
        yield file
        return
    try:
        with unpack(file) as text:
            yield cast(BinaryIO, text)
    except damage as error:
        raise InputError(f"{path}: a damaged or truncated {packer} file ({error})") from None


def _zstd(path: Path) -> ModuleType:
    """What unpacks zstd: a part of Python from 3.14 on, before that a package with the same functions."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise InputError(
            f"{path}: packed by zstd, which needs backports.zstd: pip install 'fastfold-jax[zstd]'; or pack it by gzip "
            "or xz"
        ) from None
    return zstd


def normalise(data: bytes, *, file: str) -> bytes:
    """The same text with Unix line ends and no byte-order mark, one newline at its end.

    Still bytes: the parsers look letters up in tables, and every letter that they accept is ASCII.

    Raises:
        InputError: there is nothing in it, or it is no text (a NUL byte, or not UTF-8).
    """
    data = normalise_part(data.removeprefix(BYTE_ORDER_MARK).rstrip(END), file=file)
    if not data or data.isspace():
        raise InputError(f"{file}: the file is empty")
    return data if data.endswith(b"\n") else data + b"\n"


def line_blocks(path: Path, size: int) -> Iterator[bytes]:
    """A file's text in blocks of whole lines, each about `size` bytes, as `normalise` would give it as a whole.

    Raises:
        InputError: as `opened` and `normalise`.
    """
    lines, seen = 0, False
    with opened(path) as file:
        rest = file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        while chunk := file.read(size):
            text = rest + chunk
            end = text.rfind(_LINE) + 1
            if end:
                yield (block := normalise_part(text[:end], file=str(path), lines_before=lines))
                lines += text.count(_LINE, 0, end)
                seen = seen or not block.isspace()
            rest = text[end:]
    rest = normalise_part(rest.rstrip(END), file=str(path), lines_before=lines)
    if rest:
        yield rest if rest.endswith(_LINE) else rest + _LINE
    elif not seen:
        raise InputError(f"{path}: the file is empty")


def normalise_part(data: bytes, *, file: str, lines_before: int = 0) -> bytes:
    """Whole lines from the midst of a text, with Unix line ends.

    Raises:
        InputError: it is no text.
    """
    if END in data:
        line = 1 + lines_before + data.count(_LINE, 0, data.find(END))
        raise InputError(f"{file}: a binary file (a zero byte in line {line}), not text")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = 1 + lines_before + data.count(_LINE, 0, error.start)
            raise InputError(
                f"{at(file, line)}: neither ASCII nor UTF-8 text "
                f"(byte 0x{data[error.start]:02x}); a binary file, or text in an older encoding: save it as UTF-8"
            ) from None
    return data.replace(b"\r\n", _LINE).replace(b"\r", _LINE) if b"\r" in data else data


def shown(text: bytes | str, limit: int = 40) -> str:
    """What the user wrote, quoted and cut to `limit` characters, safe to print on one line."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return repr(text if len(text) <= limit else text[:limit] + "...")
