"""Work spread by Ray: on_ray.py in a process of its own, and what is said where there is no Ray."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastfold_jax.errors import UserError
from fastfold_jax.search.spread import Share, spread


def test_on_ray():
    """Ray may end a process without a word, a minute after it lost its cluster; that must not be pytest's worker."""
    pytest.importorskip("ray")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", Path(__file__).with_name("on_ray.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search("7 passed|6 passed, 1 skipped", done.stdout), done.stdout  # one needs the shared data set


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'fastfold-jax\[ray\]'"):
        list(spread(len, [1], Share()))
