"""Full-size networks on this machine's CPU: ours against PyPI `alphafold-colabfold`, one pass each in turn.

    python benchmarks/vs_alphafold.py --json vs_alphafold.json

Each side runs in a process of its own, so that memory is its own, and the two take turns (A, B, A, B, ...), so that a
busy machine slows both alike. Both get the same drawn parameters and features, in float32. The peer runs as its users
run it: fused triangle projections, four rows of attention at a time. Reported for each: seconds to trace and compile
(with caches cleared), seconds a pass (median), processor seconds a pass, the program's peak memory as XLA plans it,
and the process's peak.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity"), str(ROOT / "benchmarks")]

import measure  # noqa: E402

SIDES = ("ours", "peer")
BLOCKS = {"evoformer_iteration": 48, "extra_msa_stack": 4}
COLUMNS = ["preset", "residues", "side", "compile_s", "pass_s", "best_s", "cpu_s", "planned_gib", "peak_gib"]


def full_size(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the released network from those of the recorded one, which has two blocks in each stack."""
    sizes = {}
    for key, shape in shapes.items():
        depth = next((depth for stack, depth in BLOCKS.items() if f"/{stack}/" in key), None)
        sizes[key] = shape if depth is None else (depth, *shape[1:])
    return sizes


def prepare(side: str, preset_name: str, sizes: tuple[int, int, int]):
    """(function to compile, its arguments) of one side."""
    import draws
    import jax
    import parity_params
    import recorded

    num_res, rows, extra_rows = sizes
    templates = 4 if "model_1" in preset_name else 0
    features = draws.features(0, num_res=num_res, rows=rows, extra_rows=extra_rows, templates=templates, masked=False)
    flat = parity_params.draw_all(full_size(recorded.shapes(preset_name)))
    if side == "peer":
        import reference

        # As its users read a file: split triangle projections joined.
        config = reference.config(preset_name, evoformer_blocks=48, extra_msa_blocks=4, fused_triangles=True)
        call = reference.one_pass(preset_name, config, representations=False)
        return call, (reference.parameters(flat, fuse=True), jax.device_put(features), reference.no_prev(num_res))

    import tempfile

    import numpy as np

    from fastfold_jax.config.execution import Execution
    from fastfold_jax.config.presets import preset
    from fastfold_jax.model.alphafold import make_apply
    from fastfold_jax.model.recycling import init_prev
    from fastfold_jax.params import store

    config, execution = preset(preset_name), Execution(precision="float32")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "params.npz"
        np.savez(path, **flat)
        del flat
        state = store.load(path, config)
    return make_apply(config, execution), (state, jax.device_put(features), init_prev(num_res, config, execution))


def work(side: str, preset_name: str, sizes: tuple[int, int, int]) -> None:
    """A child process: compiles or runs on every line it is sent, answers with a line of JSON."""
    import jax

    function, arguments = prepare(side, preset_name, sizes)
    jax.block_until_ready(arguments)
    compiled = None
    for line in sys.stdin:
        command, answer = line.strip(), {}
        if command == "compile":
            jax.clear_caches()
            start = time.perf_counter()
            traced = jax.jit(function).lower(*arguments)
            answer["trace_s"] = time.perf_counter() - start
            compiled = traced.compile()
            answer["compile_s"] = time.perf_counter() - start
            plan = compiled.memory_analysis()
            planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
            answer["planned_gib"] = (planned - plan.alias_size_in_bytes) / 2**30
        elif command == "run":
            wall, cpu = measure.stopwatch(lambda run=compiled: jax.block_until_ready(run(*arguments)))
            answer |= {"wall": wall, "cpu": cpu}
        answer["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(answer), flush=True)


class Worker:
    """One side's process."""

    def __init__(self, side: str, preset_name: str, sizes: tuple[int, int, int]):
        command = [sys.executable, __file__, "--worker", side, preset_name, *map(str, sizes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str) -> dict:
        """Sends a command and waits for its answer."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(preset_name: str, sizes: tuple[int, int, int], rounds: tuple[int, int]) -> list[dict]:
    """Both sides on one preset and size, in turn.

    Args:
      sizes: residues, MSA rows, extra MSA rows.
      rounds: times to compile, times to run.
    """
    workers = {side: Worker(side, preset_name, sizes) for side in SIDES}
    compiles = {side: [] for side in SIDES}
    runs = {side: [] for side in SIDES}
    try:
        for _ in range(rounds[0]):
            for side, worker in workers.items():
                compiles[side].append(worker.ask("compile"))
        for worker in workers.values():
            worker.ask("run")  # the first run touches the memory for the first time
        for _ in range(rounds[1]):
            for side, worker in workers.items():
                runs[side].append(worker.ask("run"))
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for side in SIDES:
        figures = measure.summary([(run["wall"], run["cpu"]) for run in runs[side]])
        rows.append(
            {
                "preset": preset_name,
                "residues": sizes[0],
                "side": side,
                "compile_s": min(c["compile_s"] for c in compiles[side]),
                "trace_s": min(c["trace_s"] for c in compiles[side]),
                "pass_s": figures["seconds"],
                "best_s": figures["best_seconds"],
                "cpu_s": figures["cpu_seconds"],
                "planned_gib": compiles[side][-1]["planned_gib"],
                "peak_gib": runs[side][-1]["peak_gib"],
                "runs": runs[side],
            }
        )
    return rows


def ratios(rows: list[dict]) -> dict[str, float]:
    """How many times as fast ours runs, and what share of the peer's compile time and memory it takes."""
    ours, peer = rows
    paired = sorted(p["wall"] / o["wall"] for o, p in zip(ours["runs"], peer["runs"], strict=True))
    return {
        "speed": peer["pass_s"] / ours["pass_s"],
        "speed_paired_median": paired[len(paired) // 2],
        "speed_cpu": peer["cpu_s"] / ours["cpu_s"],
        "compile_share": ours["compile_s"] / peer["compile_s"],
        "memory_share": ours["peak_gib"] / peer["peak_gib"],
    }


def main() -> None:
    """Parses flags, compares, prints a table."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3], tuple(map(int, sys.argv[4:7])))
        return
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["model_1_ptm", "model_3_ptm"])
    parser.add_argument("--residues", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--rows", type=int, default=128, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    presets, lengths, rounds = flags.presets, flags.residues, (2, flags.rounds)
    if flags.quick:
        presets, lengths, rounds = presets[-1:], lengths[:1], (1, 2)
    report = {"machine": measure.machine(), "rows": flags.rows, "extra_rows": flags.extra_rows, "results": []}
    for name in presets:
        for num_res in lengths:
            rows = compare(name, (num_res, flags.rows, flags.extra_rows), rounds)
            found = ratios(rows)
            report["results"].append({"sides": rows, "ratios": found})
            print(measure.table(rows, COLUMNS))
            print("  ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
