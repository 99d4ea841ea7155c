"""Reading npz files that are sound, damaged, or dangerous; writing them whole or not at all."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from fastfold_jax.params import npz
from fastfold_jax.params.npz import Npz, ParamsError

ARRAYS = {
    "a/b//weights": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a/~_c//bias": np.float32(2.5).reshape(()),
    "empty//scale": np.zeros((0, 3), np.float32),
}


def save(path, arrays, savez=np.savez):
    savez(path, **arrays)
    return path


def contents(path):
    with Npz(path) as file:
        return {key: file.read(key) for key in file.specs}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote(tmp_path, savez):
    path = save(tmp_path / "params.npz", ARRAYS, savez)
    assert_same(contents(path), ARRAYS)
    with Npz(path) as file:
        assert file.specs == {key: (array.shape, array.dtype) for key, array in ARRAYS.items()}


def test_numpy_reads_what_was_written(tmp_path):
    path = tmp_path / "params.npz"
    npz.write(path, ARRAYS.items())
    with np.load(path) as file:
        assert_same({key: file[key] for key in file.files}, ARRAYS)
    assert_same(contents(path), ARRAYS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["params.npz"]


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        npz.write(tmp_path / name, ARRAYS.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_bits_that_are_no_numbers_survive(tmp_path):
    bits = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    npz.write(tmp_path / "params.npz", [("x//y", bits)])
    assert contents(tmp_path / "params.npz")["x//y"].tobytes() == bits.tobytes()


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = save(tmp_path / "params.npz", ARRAYS)

    def failing():
        yield "a//b", np.zeros(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        npz.write(path, failing())
    assert_same(contents(path), ARRAYS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["params.npz"]


def test_unwritable_place_is_reported(tmp_path):
    with pytest.raises(ParamsError, match="cannot be written"):
        npz.write(tmp_path / "absent" / "params.npz", ARRAYS.items())


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95, 0.999])
def test_truncated_file_is_reported(tmp_path, share):
    path = save(tmp_path / "params.npz", {"x//y": np.ones(10_000, np.float32)} | ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ParamsError, match="cut short or damaged"):
        Npz(path)


def test_every_flipped_byte_of_the_data_is_noticed(tmp_path):
    path = save(tmp_path / "params.npz", {"x//y": np.zeros(64, np.float32)})
    whole = bytearray(path.read_bytes())
    start = whole.index(b"\x93NUMPY") + 128
    for position in range(start, start + 256, 17):
        broken = bytearray(whole)
        broken[position] ^= 0x40
        path.write_bytes(bytes(broken))
        with pytest.raises(ParamsError, match="'x//y' is damaged"):
            contents(path)


def test_pickled_objects_are_refused_unread(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return marker.touch, ()

    path = tmp_path / "params.npz"
    np.savez(path, **{"x//y": np.array([Bomb()], dtype=object)})
    with pytest.raises(ParamsError, match="pickled Python objects"):
        Npz(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (pickle.dumps({"x": 1}), "is not an npz file"),
        (b"\x93NUMPY\x01\x00", "is not an npz file"),
        (b"PK\x03\x04", "cut short or damaged"),
    ],
    ids=["empty", "pickle", "npy", "zip magic only"],
)
def test_other_files_are_reported(tmp_path, content, message):
    path = tmp_path / "params.npz"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=message):
        Npz(path)


def test_other_zip_files_are_reported(tmp_path):
    path = tmp_path / "params.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ParamsError, match=r"'readme\.txt' is no \.npy array"):
        Npz(path)


def test_member_that_is_no_array_is_reported(tmp_path):
    path = tmp_path / "params.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x//y.npy", "not an array at all")
    with pytest.raises(ParamsError, match="'x//y' is damaged"):
        Npz(path)


def test_twofold_key_is_reported(tmp_path):
    path, member = tmp_path / "params.npz", io.BytesIO()
    np.save(member, np.zeros(3))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x//y.npy", member.getvalue())
        archive.writestr("x//y.npy", member.getvalue())
    with pytest.raises(ParamsError, match="twice"):
        Npz(path)


@pytest.mark.parametrize("name", ["absent.npz", "directory"])
def test_unreadable_file_is_reported(tmp_path, name):
    (tmp_path / "directory").mkdir()
    with pytest.raises(ParamsError, match="cannot be read"):
        Npz(tmp_path / name)
