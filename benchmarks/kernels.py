"""Each operation on this machine's GPU, forward and backward, at the network's sizes: ours and all that is installed.

    python benchmarks/kernels.py --json kernels.json --plot kernels.png
    python benchmarks/kernels.py --only attention --lengths 2048 --rows 128
    python benchmarks/kernels.py --compile-only 90 --quick      # no GPU: does everything compile, how much memory

All sides of a case run in turn (A, B, A, B, ...) in one process; medians are reported, with achieved TFLOP/s and GB/s
of the work that cannot be avoided, temporaries as the compiler plans them, and the fraction of the floor: the longest
of the times that products, exponentials and memory traffic take at the GPU's peak, where that is known. A side that
cannot run says why. The report is written after every case. float32 products are float32 products on all sides. Peers,
where installed: cuDNN through JAX, tokamax, cuequivariance_jax, colabfold-kernels.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import kernel_cases  # noqa: E402
import measure  # noqa: E402

from pallas_kernels import launch  # noqa: E402
from parallel.audit import target as described  # noqa: E402

COLUMNS = ["operation", "size", "pass", "side", "ms", "tflops", "gb_s", "floor", "temp_mib", "speedup", "note"]
# Of a GPU, as JAX calls it: dense TFLOP/s by type, memory TB/s, special-function T/s. From the makers' data sheets; the
# last is 16 a processor and clock. Relatives of like names (H100 PCIe, GH200) have others.
PEAKS = {
    "NVIDIA A100-SXM4-40GB": ({"bfloat16": 312.0, "float32": 19.5}, 1.555, 2.4),
    "NVIDIA A100-SXM4-80GB": ({"bfloat16": 312.0, "float32": 19.5}, 2.039, 2.4),
    "NVIDIA H100 80GB HBM3": ({"bfloat16": 989.0, "float32": 67.0}, 3.35, 3.9),
    "NVIDIA H200": ({"bfloat16": 989.0, "float32": 67.0}, 4.8, 3.9),
    "NVIDIA B200": ({"bfloat16": 2250.0, "float32": 75.0}, 8.0, 4.4),
}
# A launch is repeated within a timing until it takes about this long.
TIMING_SECONDS = 0.02


def passes(case: kernel_cases.Case, side) -> dict[str, Any]:
    """Functions to time: forward, and forward with all gradients."""

    def both(*arrays):
        *arrays, cotangent = arrays

        def of_moving(*moving):
            changed = list(arrays)
            for index, value in zip(case.differentiated, moving, strict=True):
                changed[index] = value
            return side(*changed)

        out, pullback = jax.vjp(of_moving, *(arrays[index] for index in case.differentiated))
        return out, pullback(cotangent.astype(out.dtype))

    return {"forward": side, "forward + backward": both}


def draw(case: kernel_cases.Case, *cotangent: jax.ShapeDtypeStruct) -> tuple[Any, ...]:
    """Random arguments on the device."""

    def one(spec, ones):
        key = jax.random.key(next(seeds))
        values = jnp.ones(spec.shape) if ones else jax.random.normal(key, spec.shape)
        return values.astype(spec.dtype)

    seeds = itertools.count()
    arrays = (*case.arrays, *cotangent)
    return tuple(jax.tree.map(lambda x, i=i: one(x, i in case.ones), array) for i, array in enumerate(arrays))


def compiled_sides(case: kernel_cases.Case, name: str, only: list[str], place) -> dict[str, Any]:
    """Compiled programs of one pass, or the reason why there is none, by side."""
    out = jax.eval_shape(case.sides["xla"], *case.arrays)
    arrays = (*case.arrays, out) if name != "forward" else case.arrays
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arrays)
    programs = {}
    for side, function in case.sides.items():
        if (only and side not in only) or (side == "triton_atomic" and name == "forward"):
            continue
        programs[side] = measure.attempt(lambda f=function: jax.jit(passes(case, f)[name]).lower(*arrays).compile())
    return programs


def seconds_each(program, arrays: tuple[Any, ...], repeats: int) -> float:
    """Seconds of a call. No result is held while the next is made, which would take the memory of both."""
    start = time.perf_counter()
    for _ in range(repeats - 1):
        program(*arrays)
    jax.block_until_ready(program(*arrays))
    return (time.perf_counter() - start) / repeats


def time_sides(programs: dict[str, Any], arrays: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    """Median seconds of each program, or why it failed, all in turn, after two rounds that do not count."""
    failed = {side: program for side, program in programs.items() if isinstance(program, str)}
    repeats, taken = dict.fromkeys(programs, 1), {side: [] for side in programs}
    for turn in range(-2, rounds):
        for side in [side for side in programs if side not in failed]:
            seconds = measure.attempt(seconds_each, programs[side], arrays, repeats[side])
            if isinstance(seconds, str):  # most often out of memory
                failed[side] = seconds
            elif turn >= 0:
                taken[side].append(seconds)
            elif turn == -1:
                repeats[side] = max(1, round(TIMING_SECONDS / seconds))
    return failed | {side: statistics.median(times) for side, times in taken.items() if side not in failed}


def rows_of(case: kernel_cases.Case, name: str, programs: dict, times: dict, peaks: tuple | None) -> list[dict]:
    """A line of the table for each side."""
    work = case.work if name == "forward" else _sum(case.work, case.work.backward())
    # The best of the others: what ours is to be compared with.
    others = [t for side, t in times.items() if isinstance(t, float) and side not in kernel_cases.OURS]
    rows = []
    for side, program in programs.items():
        row: dict[str, Any] = {"operation": case.operation, "size": case.size, "pass": name, "side": side}
        if not isinstance(program, str):
            row["temp_mib"] = program.memory_analysis().temp_size_in_bytes / 2**20
        seconds = times.get(side)
        if isinstance(seconds, float):
            row |= {"ms": 1e3 * seconds, "tflops": work.flops / seconds / 1e12, "gb_s": work.bytes / seconds / 1e9}
            if peaks is not None:
                products, memory, special = peaks
                floor = max(work.flops / products, work.bytes / memory, work.exponentials / special) / 1e12
                row["floor"] = floor / seconds
            if side in kernel_cases.OURS and others:
                row["speedup"] = min(others) / seconds
        else:
            row["note"] = seconds if isinstance(seconds, str) else program if isinstance(program, str) else ""
        rows.append(row)
    return rows


def _sum(a: kernel_cases.Work, b: kernel_cases.Work) -> kernel_cases.Work:
    return kernel_cases.Work(
        flops=a.flops + b.flops, exponentials=a.exponentials + b.exponentials, bytes=a.bytes + b.bytes
    )


def plot(rows: list[dict], path: Path) -> None:
    """Milliseconds over size, a panel for each operation and pass, a line for each side."""
    import matplotlib.pyplot as plt

    panels = sorted({(row["operation"], row["pass"]) for row in rows})
    figure, axes = plt.subplots(len(panels), 1, figsize=(9, 3.2 * len(panels)), squeeze=False, layout="constrained")
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        chosen = [row for row in rows if (row["operation"], row["pass"]) == panel and "ms" in row]
        sizes = list(dict.fromkeys(row["size"] for row in chosen))
        for side in dict.fromkeys(row["side"] for row in chosen):
            points = [(sizes.index(row["size"]), row["ms"]) for row in chosen if row["side"] == side]
            axis.plot(*zip(*points, strict=True), marker="o", label=side)
        axis.set(title=", ".join(panel), ylabel="ms", yscale="log")
        axis.set_xticks(range(len(sizes)), sizes, rotation=30, ha="right", fontsize=7)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


def target(capability: int | None):
    """(context to compile in, where arrays lie, name of the GPU); on a machine without one, an H200 to compile for."""
    if capability is None:
        device = jax.devices()[0]
        if device.platform != "gpu":
            sys.exit(f"this needs a CUDA GPU and JAX found {device.platform}; --compile-only 90 compiles without one")
        return contextlib.nullcontext(), jax.sharding.SingleDeviceSharding(device), device.device_kind
    jax.config.update("jax_platforms", "cpu")  # the plug-in compiles for CUDA without being a backend here
    (device,) = described.devices("h200", 1)
    return launch.compiling_for(capability), jax.sharding.SingleDeviceSharding(device), device.device_kind


def flags() -> argparse.Namespace:
    """Command line."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names of the operations to run")
    parser.add_argument("--sides", nargs="+", default=[], help="implementations to run; by default all")
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 384, 512, 1024, 2048, 4096])
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 384, 512, 1024, 5120])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the times here")
    parser.add_argument("--compile-only", type=int, metavar="CAPABILITY", help="compile for an H200, run nothing")
    return parser.parse_args()


def measured(case: kernel_cases.Case, name: str, asked: argparse.Namespace, place, peaks: tuple | None) -> list[dict]:
    """Lines of the table for one pass of a case."""
    programs = compiled_sides(case, name, asked.sides, place)
    times: dict[str, Any] = {}
    if asked.compile_only is None:
        out = jax.eval_shape(case.sides["xla"], *case.arrays)
        times = time_sides(programs, draw(case, *([out] if "backward" in name else [])), asked.rounds)
    return rows_of(case, name, programs, times, peaks)


def main() -> None:
    """Parses flags, times every case, prints lines and writes the report as they are done."""
    asked = flags()
    lengths, batches = ([256], [128]) if asked.quick else (asked.lengths, asked.rows)
    context, place, device = target(asked.compile_only)
    peaks = None
    if device in PEAKS:
        products, *others = PEAKS[device]
        peaks = products[asked.dtype], *others
    report: dict[str, Any] = {"machine": measure.machine(), "device": device, "dtype": asked.dtype, "results": []}
    with context, jax.default_matmul_precision("highest" if asked.dtype == "float32" else None):
        for case in kernel_cases.all_of(lengths, batches, asked.dtype):
            if asked.only not in case.operation:
                continue
            for name in ("forward", "forward + backward"):
                rows = measure.attempt(measured, case, name, asked, place, peaks)
                if isinstance(rows, str):  # its arguments do not fit, say
                    rows = [{"operation": case.operation, "size": case.size, "pass": name, "note": rows}]
                first = not report["results"]
                report["results"] += rows
                measure.write(report, asked.json)
                lines = measure.table(rows, COLUMNS).splitlines()
                print("\n".join(lines if first else lines[1:]), flush=True)
    if asked.plot is not None:
        plot(report["results"], asked.plot)
    measure.finish(report, asked.json)


if __name__ == "__main__":
    main()
