"""`python -m fastfold_jax.params`: exit statuses, one-line errors, what is printed."""

import os
import subprocess
import sys
from pathlib import Path

import drawn
import numpy as np
import pytest
from http_server import Site, serve
from test_release import CONTENT, RELEASE, tar_of

from fastfold_jax.params import __main__ as command
from fastfold_jax.params import release

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys):
    """Runs the command here; returns exit status, stdout, stderr."""

    def call(*arguments):
        status = command.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def full_file(tmp_path_factory):
    """A drawn file of full size, named as released."""
    path = tmp_path_factory.mktemp("full") / "params_model_3.npz"
    shapes = drawn.shapes("model_3")
    np.savez_compressed(path, **{key: np.zeros(shape, np.float32) for key, shape in shapes.items()})
    return path


def test_download_installs_and_states_the_licence(run, tmp_path):
    directory = tmp_path / "params"
    with serve(Site(tar_of(CONTENT))) as site:
        status, out, _ = run("download", directory, "--url", site.url)
    assert status == 0
    assert "CC BY 4.0" in out
    assert "DeepMind" in out
    assert all(name in out for name in RELEASE.files)
    assert (directory / release.NOTICE).is_file()


def test_failed_download_is_one_line_and_status_2(run, tmp_path):
    with serve(Site(b"", statuses=[404])) as site:
        status, out, err = run("download", tmp_path, "--url", site.url)
    assert status == 2
    assert err.strip().splitlines()[-1] == f"error: {site.url}: the server answered 404 Not Found"
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fetch", "d"], "Expected one of {download, check}."),
        (["download", "d", "--urk", "x"], "--urk: no such option, perhaps --url; see --help"),
        (["check"], "Missing from python -m fastfold_jax.params check: PATH"),
    ],
)
def test_bad_options_take_one_line(run, arguments, said):
    status, _, err = run(*arguments)
    (line,) = err.splitlines()
    assert status == 2 and line.startswith("error: ") and said in line


def test_wrong_checksum_is_status_2(run, tmp_path):
    with serve(Site(tar_of(CONTENT))) as site:
        status, _, err = run("download", tmp_path, "--url", site.url, "--sha256", "0" * 64)
    assert status == 2
    assert "has SHA-256" in err
    assert not list(tmp_path.glob("*.npz"))


def test_unwritable_directory_is_status_2(run, tmp_path):
    (tmp_path / "file").touch()
    status, _, err = run("download", tmp_path / "file" / "params")
    assert status == 2
    assert "cannot be" in err


def test_check_names_the_presets(run, full_file):
    status, out, _ = run("check", full_file)
    assert status == 0
    assert "265 arrays, 92.9 M parameters; fits model_3, model_4, model_5" in out


def test_check_takes_a_directory_and_notices_misnamed_and_broken_files(run, full_file, tmp_path):
    os.link(full_file, tmp_path / "params_model_3.npz")
    os.link(full_file, tmp_path / "params_model_3_ptm.npz")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "params_model_1.npz").write_bytes(full_file.read_bytes()[:5000])
    status, out, _ = run("check", tmp_path)
    assert status == 2
    lines = out.splitlines()
    assert len(lines) == 3
    assert "cut short" in next(line for line in lines if "params_model_1.npz" in line)
    assert "does not fit model_3_ptm: 2 missing" in next(line for line in lines if "model_3_ptm.npz" in line)
    assert next(line for line in lines if "params_model_3.npz" in line).startswith("ok")


def test_deep_check_compares_with_the_manifest(run, full_file, tmp_path):
    path = tmp_path / full_file.name
    os.link(full_file, path)
    digest = subprocess.run(["sha256sum", path.name], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / release.MANIFEST).write_text(digest)
    status, out, _ = run("check", path, "--deep")
    assert status == 0
    assert "all finite; SHA-256 as noted" in out
    (tmp_path / release.MANIFEST).write_text(f"{'0' * 64}  {path.name}\n")
    status, out, _ = run("check", path, "--deep")
    assert status == 2
    assert "SHA-256 differs" in out


def test_empty_directory_names_the_download_command(run, tmp_path):
    status, _, err = run("check", tmp_path)
    assert status == 2
    assert f"download {tmp_path}" in err


def test_interruption_is_no_traceback(run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "install", interrupted)
    status, _, err = run("download", tmp_path)
    assert status == 130
    assert "Traceback" not in err


def test_runs_as_a_module(tmp_path):
    arguments = [sys.executable, "-m", "fastfold_jax.params", "check", str(tmp_path / "absent.npz")]
    result = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'absent.npz'} does not exist")
    assert "Traceback" not in result.stderr  # nor anything else of ours; a CUDA plug-in without a GPU has its say
