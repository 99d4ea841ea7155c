"""What the tests of training share."""

from pathlib import Path

import jax
import pytest
import tiny_stage

from fastfold_jax.training import run as run_module
from fastfold_jax.training.index import IndexConfig, build_index


@pytest.fixture(scope="module", autouse=True)
def small_networks_compile_quickly(quick_compiles):
    """All that these tests compile takes longer to compile than to run."""


@pytest.fixture(scope="session")
def index(tmp_path_factory) -> Path:
    """Index of the demo's structures, none of which has an alignment."""
    path = tmp_path_factory.mktemp("index") / "index.jsonl"
    build_index(IndexConfig(structures=tiny_stage.STRUCTURES, out=path, workers=1))
    return path


@pytest.fixture
def compiled_once(monkeypatch):
    """Runs of one test session share the compiled step of equal stages, as processes share a compile cache."""
    monkeypatch.setattr(run_module, "make_step", tiny_stage.shared_step)


@pytest.fixture
def one_device():
    return jax.devices()[:1]
