"""What many tests share: where test data lie, several host devices for tests of parallelism, checks of shapes."""

import logging
import os
from pathlib import Path

import hypothesis
import jax
import pytest
import shape_checks
from jax.experimental.compilation_cache.compilation_cache import reset_cache

# Must come before any backend starts. The devices share a pool of threads, in which a collective keeps one while it
# waits for the other devices: with as many threads as devices, XLA's own number on few cores, programs that are queued
# behind each other can wait forever, and XLA then ends the process.
jax.config.update("jax_num_cpu_devices", 8)
os.environ.setdefault("NPROC", "16")
# The same examples at each run: a property that fails by chance would turn a green checkout red. Others are drawn by
# `pytest --hypothesis-profile=default`.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
# AutoChunk's signatures have no shapes, and it is imported first because checks would slow its planning by much.
import fastfold_jax.autochunk.api  # noqa: E402, F401

# Must come before any other of the packages is imported.
OUR_PACKAGES = ("fastfold_jax", "pallas_kernels", "parallel")
shape_checks.switch_on(*OUR_PACKAGES)


def pytest_configure(config):
    """All tests but those of GPUs are for the CPU, whatever there is; only so JAX compiles for a GPU that is not."""
    if "not gpu" in config.option.markexpr or "gpu" not in config.option.markexpr:
        jax.config.update("jax_platforms", "cpu")


REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_end_with_their_module():
    """Else a worker holds every program that it has ever compiled: 5 GB by the end."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def what_a_command_sets_ends_with_its_test():
    """For the whole process: which messages are shown, and where compiled programs are kept."""
    directory = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", directory)
    reset_cache()
    manager = logging.getLogger().manager
    for name, logger in manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.split(".")[0] in OUR_PACKAGES:
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def quick_compiles():
    """XLA without most optimisations: for networks so small that compiling takes longer than all that they compute."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Directory of the data files committed beside the tests."""
    return REPOSITORY / "tests" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory of the larger data set that may lie beside a checkout; tests that need it skip when it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the shared data set, which is not at {path}")
    return path
