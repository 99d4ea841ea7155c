"""Importing the packages is free of side effects: no backend starts, and the root package does not even load JAX."""

import subprocess
import sys

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
