"""Finding parameter files by preset, and what is said when there are none."""

from pathlib import Path

import pytest

from fastfold_jax.params.locate import find
from fastfold_jax.params.npz import ParamsError


@pytest.mark.parametrize("folder", [".", "params"])
def test_found_in_a_directory_or_its_params_folder(tmp_path, folder):
    file = tmp_path / folder / "params_model_1_multimer_v3.npz"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert find(tmp_path, "model_1_multimer_v3") == file


def test_file_is_taken_whatever_its_name(tmp_path):
    file = tmp_path / "mine.npz"
    file.touch()
    assert find(file, "model_1") == file


def test_default_is_params_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "params_model_1.npz").touch()
    assert find(None, "model_1") == Path("params/params_model_1.npz")


def test_version_is_never_mistaken(tmp_path):
    (tmp_path / "params_model_1_multimer.npz").touch()
    with pytest.raises(ParamsError, match=r"only params_model_1_multimer\.npz"):
        find(tmp_path, "model_1_multimer_v3")


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("model_1", ""),
        ("model_5_multimer_v3", ""),
        ("model_1_multimer_v2", " --release 2022-03-02"),
        ("model_1_multimer", " --release 2022-01-19"),
    ],
)
def test_message_names_the_command_that_fetches_the_file(tmp_path, name, release):
    path = tmp_path / "weights"
    with pytest.raises(ParamsError, match="does not exist") as caught:
        find(path, name)
    assert f"`python -m fastfold_jax.params download {path}{release}`" in str(caught.value)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(ParamsError, match=r"does not exist.*download params`"):
        find(tmp_path / "params_model_1.npz", "model_1")
