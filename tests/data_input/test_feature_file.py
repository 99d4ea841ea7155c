"""Feature dictionaries from .npz files."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfold_jax.data.feature_file import read_features
from fastfold_jax.data.textfile import InputError

FEATURES = {"aatype": np.eye(21, dtype=np.int32)[:4], "msa": np.ones((2, 4), np.int32), "sequence": np.array([b"ARND"])}


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("data", [npz(**FEATURES), pickle.dumps(FEATURES, 4)], ids=["npz", "pickle"])
def test_npz_and_pickle_give_the_same(data):
    found = read_features(data, file="features")
    assert found.keys() == FEATURES.keys()
    for key, value in FEATURES.items():
        np.testing.assert_array_equal(found[key], value)


class Evil:
    def __reduce__(self):
        return pytest.fail, ("an array of an .npz file was unpickled",)


def test_texts_stored_as_objects_are_left_out_unread(caplog):
    found = read_features(npz(**{**FEATURES, "sequence": np.array([Evil()], object)}), file="f.npz")
    assert found.keys() == {"aatype", "msa"} and "f.npz: left out sequence" in caplog.text


def test_other_objects_are_refused_unread():
    with pytest.raises(InputError, match=r"f.npz: the array 'msa' holds Python objects"):
        read_features(npz(**{**FEATURES, "msa": np.array([Evil()], object)}), file="f.npz")


def test_real_features_of_alphafolds_pipeline(test_data):
    path = test_data / "parity" / "model_1_multimer_v3.feats.npz"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with np.load(path) as expected:
        found = read_features(path.read_bytes(), file=str(path))
        assert set(found) == set(expected.files)
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"PK", "not an .npz file, or a damaged"),
        (npz(**FEATURES)[:-30], "not an .npz file, or a damaged"),
        (b"not a pickle", "not a pickle, or a damaged"),
        (npz(a=np.zeros(2)), "lacks aatype and msa (it holds 'a')"),
        (pickle.dumps({"aatype": 1}), "lacks msa"),
    ],
)
def test_what_is_wrong_is_named(data, expected):
    with pytest.raises(InputError) as error:
        read_features(data, file="f")
    assert expected in str(error.value)


@given(data=st.data())
def test_damaged_archives_give_features_or_an_input_error(data):
    original = npz(**FEATURES)
    place = data.draw(st.integers(2, len(original) - 1))
    new = data.draw(st.binary(min_size=1, max_size=4))
    try:
        found = read_features(original[:place] + new + original[place + len(new) :], file="f")
    except InputError:
        return
    assert {"aatype", "msa"} <= found.keys()
