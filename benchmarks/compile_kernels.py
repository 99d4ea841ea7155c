"""Compiles every kernel for GPUs that need not be here: registers, shared memory, spills and instructions of each.

    python benchmarks/compile_kernels.py --capabilities 80 90 100 --json report.json

What is compiled is what would be launched. Of Triton: the operations run on abstract arrays, and their launches are
collected. Of Mosaic GPU, whose kernels are for 9.0 alone: programs of one operation, by XLA, which writes down what
ptxas says (it needs the extra `aot`). Exits with 1 if a kernel spills registers or does not fit.

Instructions are those in Triton's PTX of matrix products and exponentials: each is counted once, in a loop or not, so
they compare block sizes, by what a thread issues in a trip of the loop.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
import specimens  # noqa: E402

from pallas_kernels import launch, tuning  # noqa: E402

# Bytes of shared memory a program may have, by compute capability (CUDA's programming guide).
SHARED_LIMIT = {
    **dict.fromkeys((80, 87), 163 * 1024),
    **dict.fromkeys((86, 89, 120, 121), 99 * 1024),
    **dict.fromkeys((90, 100, 103, 110), 227 * 1024),
}
_TRITON_TYPES = {"float32": "*fp32", "bfloat16": "*bf16"}
_COLUMNS = ("capability", "kernel", "case", "registers", "warps", "spill_bytes", "shared_bytes", "instructions")
_WIDTHS = dict.fromkeys(_COLUMNS, 12) | {"kernel": 26, "case": 34}
# Products of warpgroups, warps and, from Blackwell on, whole programs; exponentials.
_COUNTED = re.compile(r"^\s*(?:@\S+\s+)?(wgmma\.mma_async|mma|tcgen05\.mma|ex2)\.(?:\S*(m\d+n\d+k\d+))?", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """What a compiled kernel takes of a GPU.

    Attributes:
      registers: Of a thread.
      spill_bytes: Stores and loads of registers that did not fit, of a thread.
      shared_bytes: Shared memory of a program.
      instructions: How many of a kind there are, such as `16 wgmma.mma_async m64n32k16`; of Triton's kernels.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: str = ""


def launches(function: Callable, *arrays: Any, **static: Any) -> list[launch.Launch]:
    """The launches that a form of an operation makes of arrays of these shapes."""
    collected: list[launch.Launch] = []

    def collect(request, target):
        del target
        collected.append(request)
        return [jnp.zeros(spec.shape, spec.dtype) for spec in request.outputs]

    with launch.launching_with(launch.Launcher(run=collect)):
        jax.eval_shape(lambda *arrays: function(*arrays, **static), *arrays)
    return collected


@contextlib.contextmanager
def _triton_cache():
    """Triton's own cache of files, which jax-triton turns off for the whole process when it is imported."""
    turned_off = os.environ.get("TRITON_CACHE_DIR") == ""
    if turned_off:
        del os.environ["TRITON_CACHE_DIR"]
    try:
        yield
    finally:
        if turned_off:
            os.environ["TRITON_CACHE_DIR"] = ""


def compile_launch(request: launch.Launch, capability: int, ptxas: Path | None = None) -> Usage:
    """Compiles a launch's kernel as jax-triton does, and has ptxas count: this one, or the newest of CUDA 12."""
    ptx, shared = assembly(request, capability)
    registers, spills = _assemble(ptx, ptxas or _ptxas_of_cuda_12())
    counts = collections.Counter(" ".join(filter(None, found.groups())) for found in _COUNTED.finditer(ptx))
    instructions = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), reverse=True))
    return Usage(registers=registers, spill_bytes=spills, shared_bytes=shared, instructions=instructions)


@_triton_cache()
def assembly(request: launch.Launch, capability: int) -> tuple[str, int]:
    """The PTX of a launch's kernel, as jax-triton makes it, and the bytes of shared memory of a program."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = request.kernel.arg_names
    arrays, outputs = len(request.arrays), len(request.outputs)
    signature, attributes = {}, {}
    for index, name in enumerate(names[: arrays + len(request.sizes) + outputs]):
        if arrays <= index < arrays + len(request.sizes):
            signature[name] = "i32"
            continue
        array = request.arrays[index] if index < arrays else request.outputs[index - arrays - len(request.sizes)]
        signature[name] = _TRITON_TYPES[str(array.dtype)]
        attributes[(index,)] = [["tt.divisibility", 16]]
    # As jax-triton has it: a size of 1 is known when the kernel is compiled.
    ones = {name: 1 for name, size in zip(names[arrays:], request.sizes, strict=False) if size == 1}
    constants = {**request.constants, **request.config.blocks, **ones}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(request.kernel, signature, constants, attributes)
    config = {"num_warps": request.config.num_warps, "num_stages": request.config.num_stages}
    options = config | launch.backend_options(capability)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["ptx"], compiled.metadata.shared


def compile_mosaic(specimen: specimens.Specimen) -> Usage:
    """Compiles the program of a Mosaic GPU kernel for this GPU, or else an H200.

    One that takes too much shared memory is an error.
    """
    place = None
    if jax.default_backend() == "cpu":
        from parallel.audit import target

        place = jax.sharding.SingleDeviceSharding(*target.devices("h200", 1))
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), specimen.arrays)
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, MOSAIC_GPU_DUMP_PTXAS="1", MOSAIC_GPU_DUMP_TO=folder):
            # A function of its own: what was traced is not traced again for other block sizes.
            jax.jit(lambda *arrays: specimen.function(*arrays, **specimen.static)).lower(*arrays).compile()
        said = "".join(path.read_text() for path in Path(folder).glob("*.ptxas"))
        passes = "".join(path.read_text() for path in Path(folder).glob("*passes.log"))
    if not said:
        raise LookupError("the compiler wrote nothing of this kernel, as if it had been compiled before")
    registers, spills = _counted(said)
    shared = max(int(number) for number in re.findall(r"dynamic_shared_memory_size %c(\d+)", passes))
    return Usage(registers=registers, spill_bytes=spills, shared_bytes=shared)


def _ptxas_of_cuda_12() -> Path:
    """The newest that Triton brings; it may also bring one of CUDA 13."""
    from triton import knobs

    tools = (knobs.nvidia.ptxas, knobs.nvidia.ptxas_blackwell)
    return Path(max((tool for tool in tools if tool.version.startswith("12.")), key=lambda tool: tool.version).path)


def _assemble(ptx: str, ptxas: Path) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as this ptxas says."""
    architecture = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert architecture
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(ptxas), "-v", "--gpu-name", architecture[1], str(path), "-o", str(path) + ".o"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return _counted(said)


def _counted(said: str) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as ptxas says."""
    numbers = {
        what: [int(number) for number in re.findall(rf"(\d+) {what}", said)]
        for what in ("registers", "bytes spill stores", "bytes spill loads")
    }
    return max(numbers["registers"]), sum(numbers["bytes spill stores"]) + sum(numbers["bytes spill loads"])


def _line(row: dict[str, Any]) -> str:
    return "  ".join(str(row[column]).ljust(_WIDTHS[column]) for column in _COLUMNS)


def _kernels(capability: int, ptxas: Path | None) -> Iterator[tuple[str, specimens.Specimen, int, Callable[[], Usage]]]:
    """Name, specimen, warps of a program, and what compiles it, of each kernel for a capability."""
    for specimen in specimens.all_of():
        with launch.compiling_for(capability):
            requests = launches(specimen.function, *specimen.arrays, **specimen.static)
        for kernel, request in zip(specimen.kernels, requests, strict=True):
            yield kernel, specimen, request.config.num_warps, partial(compile_launch, request, capability, ptxas)
    if capability == launch.HOPPER and importlib.util.find_spec("jax_cuda12_plugin") is None:
        print("Mosaic GPU kernels are left out: compiling them needs the extra `aot`", file=sys.stderr)
    elif capability == launch.HOPPER:
        for specimen in specimens.of_mosaic():
            (kernel,) = specimen.kernels
            warps = tuning.config(kernel, **specimen.when).num_warps
            yield kernel, specimen, warps, partial(compile_mosaic, specimen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses flags, compiles, prints a line a kernel."""
    parser = measure.arguments(__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--capabilities", nargs="+", type=int, default=[80, 90, 100])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of the kernels to compile")
    parser.add_argument("--ptxas", type=Path, help="assembler of Triton kernels, of CUDA 13 for example (default: 12)")
    flags = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # the plug-in compiles for CUDA without being a backend here
    rows, seen, failed = [], set(), False
    print(_line(dict(zip(_COLUMNS, _COLUMNS, strict=True))))
    for capability in flags.capabilities:
        for kernel, specimen, warps, compiled in _kernels(capability, flags.ptxas):
            if not any(part in kernel for part in flags.only) or (flags.quick and (capability, kernel) in seen):
                continue
            seen.add((capability, kernel))
            usage = compiled()
            fits = usage.shared_bytes <= SHARED_LIMIT[capability]
            failed |= usage.spill_bytes > 0 or not fits
            row = {
                "capability": capability,
                "kernel": kernel,
                "case": " ".join(map(str, (*specimen.when.values(), specimen.note))).strip(),
                "warps": warps,
                **dataclasses.asdict(usage),
            }
            rows.append(row)
            print(_line(row), flush=True)
    if flags.json is not None:
        flags.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
