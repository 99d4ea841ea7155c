"""Flat npz files of named arrays: headers without data, one array at a time, atomic writing."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from fastfold_jax.atomic import replacing
from fastfold_jax.errors import UserError

_SUFFIX = ".npy"
_ZIP_MAGIC = b"PK\x03\x04"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError)


class ParamsError(UserError):
    """A parameter file or archive is missing, damaged, or of another network."""


class Spec(NamedTuple):
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Npz:
    """An npz file open for reading; nothing in it is ever unpickled.

    Attributes:
      path: Where it lies.
      specs: Shape and dtype of every array by key, read from the headers alone.

    Raises:
      ParamsError: if the file is absent, no npz, damaged, or holds pickled objects.
    """

    def __init__(self, path: Path):
        self.path = path
        self._zip = _open_zip(path)
        try:
            self.specs = self._read_specs()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> "Npz":
        return self

    def __exit__(self, *_) -> None:
        self._zip.close()

    def read(self, key: str) -> np.ndarray:
        """The array `key`, whose checksum in the file is verified on the way.

        Raises:
          ParamsError: if the array's bytes are damaged or cut short.
        """
        with self._damage(key), self._zip.open(key + _SUFFIX) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # also makes the zip module compare the checksum, which it does at the end only
                raise ValueError("bytes follow the array")
        return array

    def _read_specs(self) -> dict[str, Spec]:
        specs = {}
        for name in self._zip.namelist():
            key = name.removesuffix(_SUFFIX)
            if key == name:
                raise ParamsError(f"{self.path}: {name!r} is no .npy array; expected a flat npz as np.savez writes it")
            if key in specs:
                raise ParamsError(f"{self.path}: array {key!r} is there twice")
            with self._damage(key), self._zip.open(name) as member:
                specs[key] = _read_header(member)
            if specs[key].dtype.hasobject:
                raise ParamsError(
                    f"{self.path}: array {key!r} holds pickled Python objects, which could run code and are refused;"
                    " accepted are plain numeric arrays"
                )
        return specs

    @contextlib.contextmanager
    def _damage(self, key: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise ParamsError(f"{self.path}: array {key!r} is damaged ({error}); fetch the file again") from error


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(_ZIP_MAGIC))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from error
    if magic != _ZIP_MAGIC:
        kind = "is empty" if not magic else f"is not an npz file (it begins with {magic!r})"
        raise ParamsError(f"{path}: {kind}; accepted are DeepMind's params_*.npz files")
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ParamsError(
            f"{path}: is cut short or damaged ({error}), {path.stat().st_size:,} bytes long; fetch it again"
        ) from error


def _read_header(member: IO[bytes]) -> Spec:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"npy format version {version}")
    return Spec(tuple(shape), dtype)


def write(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write an npz file that is either whole or absent; equal arrays give equal bytes.

    Args:
      path: Target; replaced if it exists.
      arrays: Key and array, taken one at a time.

    Raises:
      ParamsError: if the file cannot be written.
    """
    try:
        with replacing(path) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for key, array in arrays:
                    with archive.open(key + _SUFFIX, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ParamsError(f"{path}: cannot be written ({error.strerror or error})") from error
