"""The assembler of kernels, ptxas: which one jaxlib will run, and whether it knows the PTX that Triton writes.

jaxlib runs the first on PATH, of any CUDA from 11.8 on, and on a cluster that is the one of whatever module is loaded.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

# The CUDA that each version of PTX came with ("Parallel Thread Execution ISA", release history).
_RELEASES = {87: (12, 8), 88: (12, 9)}
_PACKAGES = ("nvidia.cuda_nvcc", "nvidia.cu13")  # of CUDA 12 and 13, as wheels
_ELSEWHERE = "/usr/local/cuda/bin"  # where jaxlib looks if none is on PATH
_PATIENCE = 30.0  # seconds, for a file system that is slow


def too_old(ptx_version: int) -> str | None:
    """Why the assembler cannot be used, or None if it can, or nothing is known of it.

    An assembler that was installed with JAX, and can be used, is put first on this process's PATH.

    Args:
      ptx_version: What is to be assembled: 87 for 8.7.
    """
    needed = _RELEASES[ptx_version]
    installed = _installed()
    if installed is not None and (_release(str(installed)) or (0, 0)) >= needed:
        _put_first(str(installed.parent))
        return None
    found = shutil.which("ptxas", path=f"{os.environ.get('PATH', '')}{os.pathsep}{_ELSEWHERE}")
    release = found and _release(found)
    if not release or release >= needed:
        return None
    return (
        f"{found} is of CUDA {release[0]}.{release[1]}, and kernels need {needed[0]}.{needed[1]} or newer "
        "(pip install 'fastfold-jax[cuda]', or put a newer one before it on PATH)"
    )


def _put_first(directory: str) -> None:
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != directory:
        os.environ["PATH"] = f"{directory}{os.pathsep}{path}" if path else directory


def _installed() -> Path | None:
    """The assembler in the wheels that JAX's CUDA comes in."""
    for package in _PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except ImportError:  # there is no `nvidia` at all
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            if (path := Path(folder) / "bin" / "ptxas").is_file():
                return path
    return None


@functools.cache
def _release(ptxas: str) -> tuple[int, int] | None:
    """The CUDA that it is of, or None if it does not say."""
    try:
        said = subprocess.run([ptxas, "--version"], check=False, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else None
