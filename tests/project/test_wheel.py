"""The wheel holds every module and table, works away from the checkout, and has nothing that is not the packages'."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("fastfold_jax", "pallas_kernels", "parallel")
IGNORED = {".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="needs the test extra")
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def test_holds_every_file_of_the_packages(wheel):
    files = {
        path.relative_to(REPOSITORY).as_posix()
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and path.suffix not in IGNORED
    }
    assert files <= set(wheel.namelist())


def test_holds_nothing_else(wheel):
    others = [name for name in wheel.namelist() if name.split("/")[0] not in PACKAGES]
    assert all(name.split("/")[0].endswith(".dist-info") for name in others)


def test_has_the_console_command_and_the_licence(wheel):
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    commands = wheel.read(entry_points).decode()
    assert "fastfold-infer = fastfold_jax.inference.cli:main" in commands
    assert "fastfold-train = fastfold_jax.training.cli:main" in commands
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_tables_are_read_from_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import fastfold_jax.constants.residues as module; print(module.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)
