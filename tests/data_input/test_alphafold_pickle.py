"""Feature pickles: arrays come back whole from every protocol, and nothing that a pickle names ever runs."""

import collections
import datetime
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastfold_jax.data.alphafold_pickle import read_feature_pickle
from fastfold_jax.data.textfile import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TYPES = st.sampled_from(["?", "i1", "u1", "<i4", ">i4", "<i8", "f2", "<f4", ">f8", "c16", "S3", "<U2", ">U2"])


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)


@given(
    arrays=st.dictionaries(
        st.text(max_size=5), hnp.arrays(TYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)), max_size=3
    ),
    protocol=st.sampled_from(PROTOCOLS),
    transpose=st.booleans(),
)
def test_arrays_round_trip(arrays, protocol, transpose):
    arrays = {key: value.T if transpose else value for key, value in arrays.items()}
    found = read_feature_pickle(pickle.dumps(arrays, protocol), file="f.pkl")
    assert list(found) == list(arrays)
    for key, value in arrays.items():
        same(found[key], value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_alphafolds_kinds_of_features(protocol):
    features = {
        "aatype": np.eye(21, dtype=np.int32)[[3, 5]],
        "sequence": np.array([b"MK"], object),
        "domain_name": np.array([b"a chain\0"], object),
        "template_domain_names": np.array([], object),
        "template_sum_probs": np.asfortranarray(np.ones((2, 3))),
        "auth_chain_id": np.asarray("A", object),
        "seq_length": np.asarray(np.int32(2)),
        "num_alignments": np.int64(5),
        "axes moved": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    }
    content = collections.OrderedDict(features) if protocol % 2 else features
    found = read_feature_pickle(pickle.dumps(content, protocol), file="f.pkl")
    for key, value in features.items():
        same(found[key], np.asarray(value))


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_both_spellings_of_numpys_modules(module):
    data = pickle.dumps({"a": np.arange(3)}, 2)
    current = b"numpy._core" if b"numpy._core" in data else b"numpy.core"
    same(read_feature_pickle(data.replace(current, module.encode()), file="f.pkl")["a"], np.arange(3))


def test_plain_values_become_arrays():
    content = {"n": 5, "x": 0.5, "name": "a", "raw": b"b", "list": [1, 2], "names": (b"a\0", "bc")}
    found = read_feature_pickle(pickle.dumps(content), file="f.pkl")
    assert found["n"] == 5 and found["x"] == 0.5 and found["name"] == "a" and found["raw"] == b"b"
    assert found["list"].tolist() == [1, 2] and found["names"].tolist() == [b"a\0", "bc"]


class Evil:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ran = []


def run(*_: object) -> dict:
    ran.append(True)
    return {}


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Evil(run), "test_alphafold_pickle.run"),
        ({"a": Evil(run)}, "test_alphafold_pickle.run"),
        ({"a": np.array([Evil(run)], object)}, "test_alphafold_pickle.run"),
        ({Evil(run): 1}, "test_alphafold_pickle.run"),
        ({"a": Evil(eval, "1")}, "eval"),
        ({"a": Evil(getattr, (), "append")}, "getattr"),
        ({"a": Evil(np.load, "x")}, "load"),
        ({"a": Evil(np.fromfile, "x")}, "fromfile"),
        ({"a": np.random.default_rng()}, "numpy.random"),
        ({"a": np.ma.zeros(3)}, "numpy.ma.core"),
        ({"a": datetime.date(2020, 1, 1)}, "datetime.date"),
        ({"a": {1, 2}}, "set"),
        ({"a": {"b": 1}}, "the feature 'a' is a dict"),
        ({"a": None}, "the feature 'a' is a NoneType"),
        ({"a": np.array([None])}, "an array holds a NoneType"),
        ({"a": np.array([[1], [2, 3]], object)}, "an array holds a list"),
        ({"a": np.zeros(2, "M8[s]")}, "arrays of type 'M8'"),
        ({"a": np.zeros(2, "i4,f4")}, "arrays of records"),
        ([np.zeros(2)], "a dictionary"),
        ({1: np.zeros(2)}, "a dictionary"),
    ],
)
def test_everything_else_is_refused_by_name(content, named, protocol):
    ran.clear()
    with pytest.raises(InputError) as error:
        read_feature_pickle(pickle.dumps(content, protocol), file="f.pkl")
    assert not ran
    assert str(error.value).startswith("f.pkl: refused: ") and named in str(error.value)


@pytest.mark.parametrize(
    "program",
    [
        global_("numpy", "core.multiarray.array") + b".",
        global_("numpy", "ndarray.tofile") + b".",
        global_("numpy", "ndarray") + b"}(X\x05\x00\x00\x00__x__K\x01ub.",  # sets the state of what a name stands for
        global_("numpy", "dtype") + b"N}(X\x05\x00\x00\x00_makeNu\x86b.",
        b"(S'echo'\nios\nsystem\n.",
        b"(cos\nsystem\nS'echo'\no.",
        b"\x80\x02\x82\x01.",  # an extension's code
        b"Pid\n.",  # an object outside the file
        b"}r\xff\xff\xff\x7f.",  # an index into a memo of 16 GiB
        b"}p99999999999999\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
        b"(dX\x01\x00\x00\x00a"
        + global_("builtins", "bytearray")
        + b"\x8a\x08"
        + struct.pack("<q", 1 << 40)
        + b"\x85Rs.",
        # Arrays whose parts do not agree.
        b"(dX\x01\x00\x00\x00a" + global_("numpy.core.multiarray", "scalar") + b"NC\x01x\x86Rs.",
        b"(dX\x01\x00\x00\x00a" + global_("numpy.core.multiarray", "_reconstruct") + b")Rs.",
        b"(dX\x01\x00\x00\x00a" + global_("numpy", "dtype") + b"X\x02\x00\x00\x00f4\x85Rs.",
    ],
)
def test_crafted_programs_are_refused(program):
    with pytest.raises(InputError):
        read_feature_pickle(program, file="f.pkl")


@pytest.mark.parametrize(
    ("code", "shape", "content"),
    [
        ("f4", (3,), b"1234"),
        ("f4", (-1,), b"1234"),
        ("f4", (1 << 62, 1 << 62), b"1234"),
        ("f4", "ab", b"1234"),
        ("i4,f8", (1,), b"x" * 12),
        ("(3,)f4", (1,), b"x" * 12),
        ("f4", (1,), ["1234"]),
        ("O8", (1,), b"12345678"),  # bytes taken for the addresses of objects
        ("O8", (2,), [1]),
        ("V4", (1,), b"1234"),
        ("S0", (10**9,), b""),
        ("U-1", (1,), b""),
        ("", (1,), b""),
    ],
)
def test_arrays_whose_parts_disagree_are_refused(code, shape, content):
    class Array:
        def __reduce__(self):
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, Type(), False, content)

    class Type:
        def __reduce__(self):
            return np.dtype, (code, False, True), (3, "<", None, None, None, -1, -1, 0)

    with pytest.raises(InputError):
        read_feature_pickle(pickle.dumps({"a": Array()}, 2), file="f.pkl")


@settings(max_examples=300)
@given(st.data())
def test_damaged_pickles_give_features_or_an_input_error(data):
    original = pickle.dumps({"a": np.arange(5), "b": np.array([b"x"], object)}, data.draw(st.sampled_from(PROTOCOLS)))
    place = data.draw(st.integers(0, len(original) - 1))
    damaged = data.draw(
        st.sampled_from([original[:place], original[place:]])
        | st.binary(min_size=1, max_size=3).map(lambda new: original[:place] + new + original[place + len(new) :])
        | st.binary(max_size=40)
    )
    try:
        found = read_feature_pickle(damaged, file="f.pkl")
    except InputError as error:
        assert str(error).startswith("f.pkl: ") and "\n" not in str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())
