"""Finds the fastest block sizes of every kernel on this machine's GPU and writes them to the table of that GPU.

    python benchmarks/tune_kernels.py                        # writes pallas_kernels/tuned/nvidia_h200.json, say
    python benchmarks/tune_kernels.py --only attention --length 2048
    python benchmarks/tune_kernels.py --compile-only 90      # no GPU: drops what spills, keeps the largest that is left

Candidates that spill registers or do not fit are dropped before anything runs; the others run in turn, and the lowest
median wins. One that fails on the GPU is said and left out. Entries of kernels that were not tuned stay as they are.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import compile_kernels  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
import specimens  # noqa: E402

from pallas_kernels import launch, tuning  # noqa: E402

TABLES = ROOT / "pallas_kernels" / "tuned"
# Sizes to try of each parameter of a kernel; the float32 forms, without tensor cores, want small ones.
SPACE = {
    "attention_forward": {"BLOCK_Q": (64, 128), "BLOCK_K": (32, 64, 128), "GROUP": (8, 16, 64)},
    "attention_backward_queries": {"BLOCK_Q": (64, 128), "BLOCK_K": (32, 64, 128), "GROUP": (16,)},
    "attention_backward_keys": {"BLOCK_Q": (32, 64, 128), "BLOCK_K": (64, 128), "GROUP": (16,)},
    "attention_backward_bias": {"BLOCK_Q": (64, 128), "BLOCK_K": (32, 64, 128)},
    "layer_norm_forward": {"BLOCK_R": (1, 2, 4, 8, 16, 32, 64)},
    "layer_norm_backward": {"BLOCK_R": (1, 2, 4, 8, 16, 32)},
    "softmax_forward": {"BLOCK_K": (256, 512, 1024, 2048)},
    "transition_forward": {"BLOCK_R": (32, 64, 128), "BLOCK_F": (32, 64, 128)},
    "triangle_producer": {"BLOCK_R": (32, 64, 128), "BLOCK_O": (16, 32, 64)},
    "triangle_consumer": {"BLOCK_R": (32, 64, 128), "BLOCK_O": (16, 32, 64)},
    "outer_product_mean_forward": {
        "GROUP_C": (4, 8), "BLOCK_I": (8, 16, 32), "BLOCK_J": (2, 4, 8), "BLOCK_S": (32, 64),
    },
    "attention_mosaic": {"BLOCK_Q": (64, 128), "BLOCK_K": (64, 128)},
    "triangle_producer_mosaic": {"TILES": (4, 8, 16, 32)},
    "triangle_consumer_mosaic": {"TILES": (4, 8, 16, 32)},
}  # fmt: skip
SMALL = {"BLOCK_Q": (16, 32, 64), "BLOCK_K": (16, 32, 64), "BLOCK_I": (4, 8), "BLOCK_J": (2, 4), "BLOCK_S": (16,)}
SMALL |= {"BLOCK_R": (16, 32), "BLOCK_F": (16, 32, 64), "BLOCK_O": (16, 32)}
WARPS, STAGES = (4, 8), (2, 3, 4)
# Of kernels whose warpgroups have parts of their own.
SHAPES = {"attention_mosaic": ((12, 16), STAGES)}
SHAPES |= dict.fromkeys(("triangle_producer_mosaic", "triangle_consumer_mosaic"), ((12,), (1,)))


def candidates(kernel: str, when: dict[str, Any]) -> Iterator[launch.Config]:
    """Every combination, the largest tiles last."""
    space = SPACE[kernel]
    if when.get("dtype") == "float32":
        space = {name: SMALL.get(name, sizes) for name, sizes in space.items()}
    for sizes in itertools.product(*space.values()):
        for num_warps, num_stages in itertools.product(*SHAPES.get(kernel, (WARPS, STAGES))):
            blocks = dict(zip(space, sizes, strict=True))
            yield launch.Config(blocks=blocks, num_warps=num_warps, num_stages=num_stages)


def fits(specimen: specimens.Specimen, kernel: str, config: launch.Config, capability: int) -> bool:
    """Whether the kernel compiles, without spills, into the shared memory there is."""
    with launch.compiling_for(capability), tuning.trying({kernel: config}):
        try:
            if kernel in SHAPES:
                usage = compile_kernels.compile_mosaic(specimen)
            else:
                requests = compile_kernels.launches(specimen.function, *specimen.arrays, **specimen.static)
                usage = compile_kernels.compile_launch(requests[specimen.kernels.index(kernel)], capability)
        except LookupError:  # the compiler does not say: no reason to drop it
            return True
        except Exception:  # a size that the compiler refuses, in one of its many ways, is no candidate
            return False
    return usage.spill_bytes == 0 and usage.shared_bytes <= compile_kernels.SHARED_LIMIT[capability]


def fastest(
    specimen: specimens.Specimen, kernel: str, fitting: list[launch.Config], rounds: int
) -> tuple[launch.Config, float]:
    """The fastest candidate and its seconds; all run in turn, but those that fail."""
    arrays = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), specimen.arrays)

    def started(config):
        with tuning.trying({kernel: config}):
            call = lambda *arrays: specimen.function(*arrays, **specimen.static)  # noqa: E731
            program = jax.jit(call).lower(*arrays).compile()
        jax.block_until_ready(program(*arrays))
        return program

    programs = []
    for config in fitting:
        program = measure.attempt(started, config)
        if isinstance(program, str):
            print(f"{kernel} {specimen.when}: {config} left out: {program}", flush=True)
        else:
            programs.append((config, program))
    if not programs:
        raise LookupError("no candidate runs")
    taken: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for times, (_, program) in zip(taken, programs, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*arrays))
            times.append(time.perf_counter() - start)
    medians = [statistics.median(times) for times in taken]
    best = min(range(len(medians)), key=medians.__getitem__)
    return programs[best][0], medians[best]


def entry(when: dict[str, Any], config: launch.Config) -> dict[str, Any]:
    """A line of a table."""
    sizes = {"blocks": dict(config.blocks), "num_warps": config.num_warps, "num_stages": config.num_stages}
    return {"when": when, **sizes}


def write(path: Path, table: dict[str, list[dict[str, Any]]]) -> None:
    """One line an entry, so that changes show."""
    kernels = []
    for kernel, entries in sorted(table.items()):
        lines = ",\n".join("  " + json.dumps(e) for e in entries)
        kernels.append(f" {json.dumps(kernel)}: [\n{lines}\n ]")
    path.write_text("{\n" + ",\n".join(kernels) + "\n}\n")


def flags() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", default="", help="part of the names of the kernels to tune")
    parser.add_argument("--length", type=int, default=1024, help="residues")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile-only", type=int, metavar="CAPABILITY", help="choose by compiling alone")
    return parser.parse_args()


def main() -> None:
    """Parses flags, tunes, writes the table after every kernel."""
    asked = flags()
    if asked.compile_only is not None:
        jax.config.update("jax_platforms", "cpu")
    capability = asked.compile_only or launch.target().capability
    hopper = capability == launch.HOPPER
    name = f"sm{capability}" if asked.compile_only else tuning.slug(launch.target().name)
    path = TABLES / f"{name}.json"
    table = json.loads(path.read_text()) if path.is_file() else {}
    for specimen in (*specimens.all_of(asked.length), *(specimens.of_mosaic(asked.length) if hopper else ())):
        for kernel in specimen.kernels:
            if asked.only not in kernel or not specimen.usual:
                continue
            fitting = [c for c in candidates(kernel, specimen.when) if fits(specimen, kernel, c, capability)]
            if not fitting:
                print(f"{kernel} {specimen.when}: nothing fits")
                continue
            found = (fitting[-1], float("nan"))
            if asked.compile_only is None:
                found = measure.attempt(fastest, specimen, kernel, fitting, asked.rounds)
            if isinstance(found, str):
                print(f"{kernel} {specimen.when}: not tuned: {found}", flush=True)
                continue
            best, seconds = found
            rest = [e for e in table.get(kernel, []) if e["when"] != specimen.when]
            # Ahead of what is less particular, as the first that agrees is taken.
            table[kernel] = [entry(specimen.when, best), *rest]
            write(path, table)
            print(f"{kernel} {specimen.when}: {best}, {1e3 * seconds:.3f} ms, of {len(fitting)}", flush=True)


if __name__ == "__main__":
    main()
