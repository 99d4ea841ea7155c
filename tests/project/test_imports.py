"""Importing the packages is free of side effects: no backend starts, and the root package does not even load JAX."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("fastfold_jax", "pallas_kernels", "parallel")

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("fastfold_jax", "pallas_kernels", "parallel"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from jax._src import xla_bridge
sys.exit(xla_bridge.backends_are_initialized())
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_root_package_does_not_load_jax():
    result = run("import fastfold_jax, sys; sys.exit('jax' in sys.modules)")
    assert result.returncode == 0, result.stderr or "import fastfold_jax loaded jax"


def test_no_module_starts_a_backend():
    result = run(IMPORT_ALL)
    assert result.returncode == 0, result.stderr or "some module starts a JAX backend while it is imported"
    assert not result.stdout, "importing prints"


def test_every_folder_of_modules_is_a_package():
    """The import linter and the type checker pass over a folder without __init__.py."""
    folders = {path.parent for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")}
    assert not [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()]
