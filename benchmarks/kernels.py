"""Each operation on this machine's GPU, forward and backward, at the network's sizes: ours and all that is installed.

    python benchmarks/kernels.py --json kernels.json --plot kernels.png
    python benchmarks/kernels.py --only attention --lengths 2048 --rows 128
    python benchmarks/kernels.py --compile-only 90 --quick      # no GPU: does everything compile, how much memory

All sides of a case run in turn (A, B, A, B, ...) in one process; medians are reported, with achieved TFLOP/s and GB/s
of the work that cannot be avoided, temporaries as the compiler plans them, and the fraction of the floor: the longest
of the times that products, exponentials and memory traffic take at the GPU's peak. A side that cannot run says why.
Peers, where installed: cuDNN through JAX, tokamax, cuequivariance_jax, colabfold-kernels.
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
# Of a GPU: dense bf16 TFLOP/s, memory TB/s, special-function T/s. From the makers' data sheets; the last is 16 a
# processor and clock.
PEAKS = {
    "A100": (312.0, 2.0, 2.4),
    "H100": (989.0, 3.35, 3.9),
    "H200": (989.0, 4.8, 3.9),
    "B200": (2250.0, 8.0, 4.4),
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
        try:
            programs[side] = jax.jit(passes(case, function)[name]).lower(*arrays).compile()
        except Exception as error:  # whatever a package or the compiler raises is that side's result
            programs[side] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return programs


def time_sides(programs: dict[str, Any], arrays: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    """Median seconds of each program, or why it failed, all in turn."""
    results: dict[str, Any] = {}
    repeats = {}
    for side, program in programs.items():
        if isinstance(program, str):
            results[side] = program
            continue
        try:
            jax.block_until_ready(program(*arrays))
            start = time.perf_counter()
            jax.block_until_ready(program(*arrays))
            repeats[side] = max(1, round(TIMING_SECONDS / (time.perf_counter() - start)))
        except Exception as error:  # most often out of memory, which is that side's result
            results[side] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    taken: dict[str, list[float]] = {side: [] for side in repeats}
    for _ in range(rounds):
        for side, count in repeats.items():
            start = time.perf_counter()
            for _ in range(count):
                out = programs[side](*arrays)
            jax.block_until_ready(out)
            taken[side].append((time.perf_counter() - start) / count)
    return results | {side: statistics.median(times) for side, times in taken.items()}


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
                floor = max(work.flops / peaks[0], work.bytes / peaks[1], work.exponentials / peaks[2]) / 1e12
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


def main() -> None:
    """Parses flags, times every case, prints lines as they are done."""
    asked = flags()
    lengths, batches = ([256], [128]) if asked.quick else (asked.lengths, asked.rows)
    context, place, device = target(asked.compile_only)
    peaks = next((peak for name, peak in PEAKS.items() if name in device), None)
    report: dict[str, Any] = {"machine": measure.machine(), "device": device, "dtype": asked.dtype, "results": []}
    with context:
        for case in kernel_cases.all_of(lengths, batches, asked.dtype):
            if asked.only not in case.operation:
                continue
            for name in ("forward", "forward + backward"):
                programs = compiled_sides(case, name, asked.sides, place)
                times: dict[str, Any] = {}
                if asked.compile_only is None:
                    out = jax.eval_shape(case.sides["xla"], *case.arrays)
                    times = time_sides(programs, draw(case, *([out] if "backward" in name else [])), asked.rounds)
                rows = rows_of(case, name, programs, times, peaks)
                first = not report["results"]
                report["results"] += rows
                lines = measure.table(rows, COLUMNS).splitlines()
                print("\n".join(lines if first else lines[1:]), flush=True)
    if asked.plot is not None:
        plot(report["results"], asked.plot)
    measure.finish(report, asked.json)


if __name__ == "__main__":
    main()
