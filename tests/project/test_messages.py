"""What the commands say on standard error."""

import io
import logging

import pytest
from rich.console import Console

from fastfold_jax import messages


@pytest.fixture
def loggers():
    """Gives the loggers back as they were."""
    names = [None, "fastfold_jax", "pallas_kernels", "parallel"]
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    handlers = logging.getLogger().handlers[:]
    yield
    for logger, level in before:
        logger.setLevel(level)
    logging.getLogger().handlers[:] = handlers


def test_all_own_packages_are_heard_and_others_when_they_warn(loggers, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    messages.set_up(Console(stderr=True), logging.INFO)
    for name in ("fastfold_jax.data", "pallas_kernels.dispatch", "parallel.hosts", "jax"):
        logging.getLogger(name).info("%s tells", name)
        logging.getLogger(name).debug("%s whispers", name)
        logging.getLogger(name).warning("%s warns", name)
    words = [line.split()[2:] for line in said.getvalue().splitlines()]
    own = ["fastfold_jax.data", "pallas_kernels.dispatch", "parallel.hosts"]
    assert words == [[name, verb] for name in own for verb in ("tells", "warns")] + [["jax", "warns"]]
