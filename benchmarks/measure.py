"""What every benchmark shares: its flags, interleaved timing, a description of the machine, and the JSON it writes."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the flags all benchmarks have: `--json FILE` and `--quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few repeats: does it run, roughly how fast"
    )
    return parser


def stopwatch(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one call; the latter, over all threads, hardly feels a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Times each call once a round, in turn (A, B, A, B, ...), after one untimed round.

    Returns:
      For each call `seconds` and `cpu_seconds` (medians) and `best_seconds`.
    """
    for call in calls.values():
        call()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(stopwatch(call))
    return {name: summary(times) for name, times in taken.items()}


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median and best of (wall, processor) seconds."""
    walls, cpus = zip(*times, strict=True)
    return {
        "seconds": statistics.median(walls),
        "best_seconds": min(walls),
        "cpu_seconds": statistics.median(cpus),
        "rounds": len(times),
    }


def machine() -> dict[str, Any]:
    """Where figures were taken."""
    import jax

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns or, where it raises, the first line of why: a result too, that must not cost the others."""
    try:
        return call(*arguments)
    except Exception as error:  # whatever a package, the compiler or the GPU raises
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]


def write(report: dict[str, Any], path: Path | None) -> None:
    """Writes the report where the user asked for it; also one that is not whole yet."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n")


def finish(report: dict[str, Any], path: Path | None) -> None:
    """Writes the whole report, and says so."""
    write(report, path)
    if path is not None:
        print(f"wrote {path}")


def table(rows: list[Mapping[str, Any]], columns: list[str]) -> str:
    """Rows as aligned columns; numbers keep three significant digits."""
    shown = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in shown)) if shown else len(c) for i, c in enumerate(columns)]
    lines = [columns, *shown]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
