"""Reads the pickles of AlphaFold's pipeline (``features.pkl``) without running anything that they may name.

A pickle is a program. This unpickler knows only the names that a dictionary of NumPy arrays needs, and even these are
played by stand-ins of ours: no NumPy function ever sees the file's arguments, and an array is built from checked parts.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Literal

import numpy as np

from fastfold_jax.data.textfile import InputError, shown

_NUMBERS = "biufc"  # NumPy's kinds: booleans, integers, floats, complex numbers
_STRINGS = "SU"
_OBJECTS = "O"
_MAX_ITEM_BYTES = 1 << 20


class _Refused(Exception):
    """The pickle holds something that is not admitted; the message says what."""


def read_feature_pickle(data: bytes, *, file: str) -> dict[str, np.ndarray]:
    """The dictionary of arrays in a pickle; nothing but NumPy arrays, NumPy scalars and plain containers is admitted.

    Arrays of objects are admitted if their elements are bytes, strings or numbers, as AlphaFold's ``sequence`` and
    ``template_domain_names`` are. Scalars, strings and flat lists become arrays.

    Raises:
        InputError: the file is no pickle, is damaged, or holds anything else; the message names the class refused.
    """
    try:
        _check_opcodes(data)
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise _Refused("a dictionary from feature names to arrays is expected at its top")
        return {key: _as_array(value, key) for key, value in content.items()}
    except _Refused as error:
        raise InputError(f"{file}: refused: {error}") from None
    except Exception as error:  # a damaged pickle makes the interpreter raise almost anything
        what = f"{type(error).__name__}: {shown(str(error), 100)}"
        raise InputError(f"{file}: not a pickle, or a damaged or truncated one ({what})") from None


def _check_opcodes(data: bytes) -> None:
    """Walks the program without running it: every length must lie in the file, and no memo index beyond its size.

    The interpreter would allocate what such an index or length asks for before finding the file too short.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
            raise _Refused(f"its memo index {argument} is larger than the file")


class _Unpickler(pickle.Unpickler):
    """Finds the stand-ins below and nothing else."""

    def find_class(self, module: str, name: str) -> "_StandIn":
        make = _ADMITTED.get((module.replace("numpy._core", "numpy.core"), name))
        if make is None:
            raise _Refused(
                f"it asks for {shown(f'{module}.{name}', 80)}; only NumPy arrays and plain containers are admitted"
            )
        return _StandIn(make)

    def persistent_load(self, pid: object) -> object:
        raise _Refused("it refers to objects outside the file; only NumPy arrays and plain containers are admitted")


class _StandIn:
    """What a name in the pickle stands for: it can be called, and not be changed."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("it sets the state of a function or class")


class _Dtype:
    """A NumPy type: its code without the byte order, which pickles keep in the state."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str):
            raise _Refused(f"an array type is given by {type(code).__name__}, not by its code")
        self.code = code
        self.order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: object) -> None:
        fields = state if isinstance(state, tuple) else ()
        if len(fields) < 5 or fields[2:5] != (None, None, None):
            raise _Refused("it holds arrays of records; plain numbers and strings are admitted")
        self.order = "<" if fields[1] == "<" else ">" if fields[1] == ">" else "="

    def resolve(self) -> np.dtype:
        """The type itself.

        Only a letter and a size pass: NumPy would read a name such as ``i4,f8`` or ``(3,)f4`` as something larger.
        """
        kind, size = self.code[:1], self.code[1:]
        if kind not in _NUMBERS + _STRINGS + _OBJECTS or not kind or not (size.isascii() and size.isdecimal()):
            raise _Refused(
                f"it holds arrays of type {shown(self.code)}; numbers, strings and plain objects are admitted"
            )
        if kind == _OBJECTS:
            return np.dtype(object)
        dtype = np.dtype(kind + size).newbyteorder(self.order)
        if not 0 < dtype.itemsize <= _MAX_ITEM_BYTES:
            raise _Refused(f"it holds arrays of type {shown(self.code)}, whose elements have {dtype.itemsize} bytes")
        return dtype


class _Array:
    """An array under construction: NumPy's pickles make an empty one first and then set its state."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("the state of an array is not of the form that NumPy writes")
        _, shape, dtype, fortran, content = state
        self.value = _build(content, dtype, shape, fortran=bool(fortran))


def _build(content: object, dtype: object, shape: object, *, fortran: bool = False) -> np.ndarray:
    """An array of bytes or objects from a pickle, once size, type and shape are found to agree."""
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise _Refused(f"the shape of an array is {shown(repr(shape))}")
    if not isinstance(dtype, _Dtype):
        raise _Refused("an array without a NumPy type")
    resolved, count = dtype.resolve(), math.prod(shape)
    order: Literal["F", "C"] = "F" if fortran else "C"
    if resolved.hasobject:
        if not isinstance(content, list) or len(content) != count:
            raise _Refused("an array of objects whose elements are not listed")
        flat = np.empty(count, object)
        flat[:] = [_element(item) for item in content]
        return flat.reshape(shape, order=order)
    if isinstance(content, str):  # Python 2 wrote bytes so
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray) or len(content) != count * resolved.itemsize:
        raise _Refused(f"an array of shape {shape} and type {resolved} that holds another number of bytes")
    array = np.frombuffer(content, resolved).reshape(shape, order=order)
    return array.astype(resolved.newbyteorder("="))


def _element(item: object) -> object:
    """An element of an array of objects or of a list: plain data, or it is refused."""
    if isinstance(item, _Array) and item.value is not None and item.value.ndim == 0:
        return item.value.item()
    if not isinstance(item, bytes | str | int | float):
        raise _Refused(f"an array holds a {type(item).__name__.lstrip('_')}; bytes, strings and numbers are admitted")
    return item


def _as_array(value: object, key: str) -> np.ndarray:
    """A feature as an array."""
    if isinstance(value, _Array):
        if value.value is None:
            raise _Refused(f"the array {shown(key)} has no content")
        return value.value
    if isinstance(value, bytes | str | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        items = [_element(item) for item in value]
        return np.asarray(items, dtype=object if any(isinstance(item, bytes | str) for item in items) else None)
    raise _Refused(f"the feature {shown(key)} is a {type(value).__name__.lstrip('_')}; arrays are expected")


def _scalar(dtype: object, content: object = b"") -> _Array:
    """Plays NumPy's ``scalar``: an array without axes."""
    array = _Array()
    array.value = _build(content, dtype, ())
    return array


def _from_buffer(content: object, dtype: object, shape: object, order: object, axes: object = None) -> _Array:
    """Plays NumPy's ``_frombuffer``, by which arrays are pickled in protocol 5."""
    array = _Array()
    if order == "K" and isinstance(axes, tuple | list):
        array.value = np.transpose(_build(content, dtype, shape), [int(axis) for axis in axes])
    else:
        array.value = _build(content, dtype, shape, fortran=order == "F")
    return array


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Plays ``_codecs.encode``, by which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("it encodes text otherwise than as Latin-1")
    return text.encode("latin1")


def _bytes(*content: object) -> bytes:
    """Plays ``bytes`` and ``bytearray`` of nothing, of bytes, or of Latin-1 text; never of a length."""
    if not content:
        return b""
    if isinstance(content[0], bytes | bytearray):
        return bytes(content[0])
    return _encode(content[0])


def _ordered_dict(*content: object) -> dict[object, object]:
    """Plays ``collections.OrderedDict``, which pickles fill afterwards."""
    if content:
        raise _Refused("an OrderedDict made otherwise than empty")
    return {}


# NumPy 1's spelling of modules; numpy._core is read as numpy.core.
_ADMITTED: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("__builtin__", "bytearray"): _bytes,
    ("collections", "OrderedDict"): _ordered_dict,
}
