"""Full networks on this machine's GPU, one pass: ours with kernels on and off, and the peer with and without its own.

    python benchmarks/model.py --json model.json
    python benchmarks/model.py --presets model_3_ptm --residues 1024 --sides kernels peer_kernels
    python benchmarks/model.py --compile-only 90 --residues 1024     # no GPU: memory of each side on an H200

Sides: `kernels` and `xla` are ours, in bf16; with `--budget GIB` both are chunked by `autochunk` to fit. `peer` is PyPI
`alphafold-colabfold` in bf16 as ColabFold runs it, `peer_kernels` the same with `use_pallas`. All get the same drawn
parameters and features. A GPU has room for one at a time, so each runs in a process of its own, one after the other.
Reported: seconds to compile, seconds a pass (median, best), GiB at the peak as the compiler plans it and as JAX's
allocator saw it.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity"), str(ROOT / "benchmarks")]

import measure  # noqa: E402
import vs_alphafold  # noqa: E402

SIDES = ("kernels", "xla", "peer", "peer_kernels")
COLUMNS = ["preset", "residues", "side", "compile_s", "pass_s", "best_s", "planned_gib", "peak_gib", "speed", "note"]


def ours(kernels: str, preset_name: str, flat: Any, num_res: int, budget: float | None):
    """(function, parameters or their shapes, previous pass) of ours.

    Args:
      flat: DeepMind's arrays, or None for shapes alone.
      budget: GiB that `autochunk` is to fit the pass in.
    """
    import tempfile

    import jax
    import numpy as np

    from fastfold_jax.config.execution import Execution
    from fastfold_jax.config.presets import preset
    from fastfold_jax.model.alphafold import abstract_state, make_apply
    from fastfold_jax.model.recycling import init_prev
    from fastfold_jax.params import store

    config, execution = preset(preset_name), Execution(precision="bf16", kernels=kernels)
    function = make_apply(config, execution)
    if budget is not None:
        from fastfold_jax.autochunk import autochunk
        from fastfold_jax.autochunk.target import H200, current

        device = H200 if flat is None else current()
        function = autochunk(function, memory_budget=int(budget * 2**30), target=device)
    if flat is None:
        return function, abstract_state(config), jax.eval_shape(lambda: init_prev(num_res, config, execution))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "params.npz"
        np.savez(path, **flat)
        state = store.load(path, config)
    return function, state, init_prev(num_res, config, execution)


def peer(use_kernels: bool, preset_name: str, flat: Any, num_res: int):
    """The same of the peer, whose users read a file with split triangle projections joined."""
    import jax
    import parity_params
    import recorded
    import reference

    config = reference.config(
        preset_name, evoformer_blocks=48, extra_msa_blocks=4, precision="bf16", fused_triangles=True
    )
    with config.unlocked():
        config.global_config.use_pallas = use_kernels
    function = reference.one_pass(preset_name, config, representations=False)
    if flat is None:
        drawn = parity_params.draw_all(vs_alphafold.full_size(recorded.shapes(preset_name)))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), reference.parameters(drawn, fuse=True))
        return function, shapes, jax.eval_shape(lambda: reference.no_prev(num_res))
    return function, reference.parameters(flat, fuse=True), reference.no_prev(num_res)


def work(asked: dict[str, Any]) -> dict[str, Any]:
    """One side in this process: compiles, and runs unless only compiling is asked for."""
    import draws
    import jax
    import parity_params
    import recorded

    name, side, num_res = asked["preset"], asked["side"], asked["residues"]
    capability = asked["compile_only"]
    if capability:
        jax.config.update("jax_platforms", "cpu")  # the plug-in compiles for CUDA without being a backend here
    templates = 4 if "model_1" in name else 0
    features = draws.features(
        0, num_res=num_res, rows=asked["rows"], extra_rows=asked["extra_rows"], templates=templates, masked=False
    )
    flat = None if capability else parity_params.draw_all(vs_alphafold.full_size(recorded.shapes(name)))
    if side.startswith("peer"):
        function, state, prev = peer(side == "peer_kernels", name, flat, num_res)
    else:
        function, state, prev = ours("xla" if side == "xla" else "auto", name, flat, num_res, asked["budget"])
    arguments = (state, features, prev)
    context: Any = contextlib.nullcontext()
    if capability:
        from pallas_kernels import launch
        from parallel.audit import programs

        mesh = programs.mesh_of("h200", data=1, dap=1, per_node=8)
        place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        context = launch.compiling_for(capability)
        arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments)
    else:
        arguments = jax.device_put(arguments)
    start = time.perf_counter()
    with context:
        compiled = jax.jit(function).lower(*arguments).compile()
    plan = compiled.memory_analysis()
    planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
    row: dict[str, Any] = {"compile_s": time.perf_counter() - start, "planned_gib": planned / 2**30}
    if capability:
        return row
    times = [measure.stopwatch(lambda: jax.block_until_ready(compiled(*arguments)))[0] for _ in range(asked["rounds"])]
    row |= {"pass_s": statistics.median(times[1:]), "best_s": min(times), "device": jax.devices()[0].device_kind}
    statistics_of_memory = jax.devices()[0].memory_stats() or {}
    return row | {"peak_gib": statistics_of_memory.get("peak_bytes_in_use", 0) / 2**30}


def ask(asked: dict[str, Any]) -> dict[str, Any]:
    """Runs `work` in a process of its own; what goes wrong there is its result."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, __file__, "--worker", json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        return {"note": said[-1][:100]}
    return json.loads(done.stdout.splitlines()[-1])


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two rows are of one preset and size."""
    return (a["preset"], a["residues"]) == (b["preset"], b["residues"])


def flags() -> argparse.Namespace:
    """Command line."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["model_3_ptm", "model_1_ptm"])
    parser.add_argument("--residues", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rows", type=int, default=512, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=6, help="passes; the first is not counted")
    parser.add_argument("--budget", type=float, metavar="GIB", help="chunk ours to fit")
    parser.add_argument("--compile-only", type=int, metavar="CAPABILITY", help="compile for an H200, run nothing")
    return parser.parse_args()


def main() -> None:
    """Parses flags, runs every side, prints a line as each is done."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(json.loads(sys.argv[2]))))
        return
    asked = flags()
    presets, lengths = (asked.presets[:1], [256]) if asked.quick else (asked.presets, asked.residues)
    report: dict[str, Any] = {"rows": asked.rows, "extra_rows": asked.extra_rows, "results": []}
    for preset_name in presets:
        for num_res in lengths:
            for side in asked.sides:
                case = {"preset": preset_name, "residues": num_res, "side": side}
                row = case | ask({**vars(asked), **case, "json": None})
                first = next((r for r in report["results"] if "pass_s" in r and _same(r, row)), None)
                if first and "pass_s" in row:
                    row["speed"] = row["pass_s"] / first["pass_s"]  # how many times as fast the first side is
                report["results"].append(row)
                lines = measure.table([row], COLUMNS).splitlines()
                print("\n".join(lines if len(report["results"]) == 1 else lines[1:]), flush=True)
    measure.finish(report, asked.json)


if __name__ == "__main__":
    main()
