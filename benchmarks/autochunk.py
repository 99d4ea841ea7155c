"""What AutoChunk makes of a pass: memory on an H200 at several budgets, its curve of memory and time, time on this CPU.

    pip install 'fastfold-jax[aot]'
    python benchmarks/autochunk.py --json autochunk.json --plot autochunk.svg

Each by its own flag, all without a GPU:
  --residues, --gib   peak by XLA's buffer assignment for an H200, compiled ahead of time, against the estimate; again
                      for less where XLA needs more than the budget (at most twice);
  --curve             predicted memory and time from the whole pass to the smallest, for these lengths;
  --parts             error of the estimate for the Evoformer, the extra MSA stack, the templates, and the structure
                      module by themselves, whole and in chunks, at these lengths;
  --cpu               measured seconds a pass on this machine, whole and in chunks by turns, at a fifth of the memory.
Unless told otherwise, kernels are off, and there are 512 + 1,024 MSA rows, in bf16 (float32 on the CPU).
"""

import dataclasses
import logging
import os
import sys
import time
from pathlib import Path
from typing import get_args

os.environ["JAX_PLATFORMS"] = "cpu"  # the plug-in compiles for CUDA without being a backend here
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import autochunk_parts  # noqa: E402
import jax  # noqa: E402
import measure  # noqa: E402

from fastfold_jax.autochunk import BudgetError, Chunked, autochunk, fit  # noqa: E402
from fastfold_jax.autochunk.target import CPU, H200  # noqa: E402
from fastfold_jax.config.execution import Execution, Kernels  # noqa: E402
from fastfold_jax.config.model import ModelConfig  # noqa: E402
from fastfold_jax.config.presets import preset  # noqa: E402
from fastfold_jax.model.alphafold import abstract_state, init_state, make_apply  # noqa: E402
from fastfold_jax.model.distributed import argument_specs, distribute, for_mesh, named_shardings  # noqa: E402
from fastfold_jax.model.recycling import init_prev  # noqa: E402
from parallel.audit import programs  # noqa: E402

GIB = 2**30
BUDGETS = {512: [1.0], 1024: [1.5, 1.6, 2.0], 2048: [4.6, 5.0, 8.0], 4096: [12.5, 16.0, 32.0], 8192: [40.0, 48.0]}
COLUMNS = ["residues", "devices", "budget_gib", "estimate_gib", "peak_gib", "error", "slowdown", "loops", "plan_s"]
COLUMNS += ["compile_s"]
CPU_COLUMNS = ["residues", "budget_gib", "whole_s", "chunked_s", "ratio", "whole_gib", "chunked_gib"]


def specs(config: ModelConfig, num_res: int, rows: tuple[int, int], execution: Execution) -> tuple:
    """Shapes of the arguments of one pass."""
    sizes = programs.Sizes(residues=num_res, rows=rows[0], extra_rows=rows[1], templates=config.num_templates)
    previous = jax.eval_shape(lambda: init_prev(num_res, config, execution))
    return abstract_state(config), programs.abstract_features(sizes), previous


def ahead_of_time(config: ModelConfig, budget: int, arguments: tuple, execution: Execution, dap: int) -> list[dict]:
    """A row for each compilation that it takes to meet the budget of each of `dap` devices."""
    mesh, rows = programs.mesh_of("h200", data=1, dap=dap, per_node=8), []
    execution = for_mesh(execution, mesh)
    shardings = named_shardings(mesh, argument_specs(config))

    def build(budget: int):
        start = time.perf_counter()
        chunked = autochunk(make_apply(config, execution), budget, target=H200, donate_argnums=(2,))
        apply = distribute(chunked, mesh, config, execution)
        with programs.kernels_for(mesh.devices.flat[0]):
            lowered = jax.jit(apply, in_shardings=shardings, donate_argnums=2).lower(*arguments)
        planned, plan = time.perf_counter(), chunked.explanations[-1]
        compiled = lowered.compile()
        peak = fit.peak_bytes(compiled)
        row = {"residues": arguments[1].aatype.shape[0], "devices": dap, "budget_gib": budget / GIB}
        row |= {"estimate_gib": plan.after / GIB, "peak_gib": peak / GIB, "error": plan.after / peak - 1}
        row |= {"slowdown": plan.slowdown, "loops": len(plan.regions)}
        rows.append(row | {"plan_s": planned - start, "compile_s": time.perf_counter() - planned})
        return compiled

    fit.within(budget, build)
    return rows


def curve(chunked: Chunked, num_res: int, arguments: tuple) -> list[dict]:
    """Predicted memory and time of ever smaller plans."""
    points = chunked.curve(*arguments)
    whole = points[0][1]
    return [{"residues": num_res, "peak_gib": peak / GIB, "slowdown": time / whole - 1} for peak, time in points]


def on_this_cpu(name: str, num_res: int, rows: tuple[int, int], blocks: int, turns: int) -> dict:
    """Seconds a pass with so many Evoformer blocks, the median of turns, whole and in chunks."""
    import numpy as np

    config, execution = preset(name, evoformer_blocks=blocks), Execution(precision="float32", kernels="xla")
    shapes = specs(config, num_res, rows, execution)
    generator = np.random.default_rng(0)
    draw = lambda s: (generator.random(s.shape) < 0.5).astype(s.dtype)  # noqa: E731
    arguments = (init_state(config, 0, zero_final=False), *jax.tree.map(draw, shapes[1:]))
    function = make_apply(config, execution)
    # A fifth of what the operations take as they are written; their forms for CPUs take less by themselves.
    plain = autochunk(function, 2**50, target=dataclasses.replace(CPU, platform="none")).explain(*shapes)
    budget = plain.before // 5
    forms = {"whole": function, "chunked": autochunk(function, budget, target=CPU)}
    compiled = {form: jax.jit(f).lower(*shapes).compile() for form, f in forms.items()}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(turns):
        for form, run in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            seconds[form].append(time.perf_counter() - start)
    median = {form: sorted(values)[len(values) // 2] for form, values in seconds.items()}
    ratios = sorted(c / w for c, w in zip(seconds["chunked"], seconds["whole"], strict=True))
    row = {"residues": num_res, "budget_gib": budget / GIB, "ratio": ratios[len(ratios) // 2]}
    row |= {f"{form}_s": median[form] for form in forms}
    return row | {f"{form}_gib": fit.peak_bytes(compiled[form]) / GIB for form in forms}


def plot(points: list[dict], path: Path) -> None:
    """Predicted slowdown against memory, a line for each length."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for num_res in sorted({p["residues"] for p in points}):
        line = [p for p in points if p["residues"] == num_res]
        axes.plot([p["peak_gib"] for p in line], [100 * p["slowdown"] for p in line], ".-", label=f"{num_res} residues")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("peak memory of a pass, GiB")
    axes.set_ylabel("predicted time against the whole pass, %")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parses flags, runs the parts asked for, prints a line as each size is done."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--preset", default="model_3_ptm")
    parser.add_argument("--residues", nargs="*", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--gib", nargs="*", type=float, help="budgets, in place of some for each length")
    parser.add_argument("--kernels", choices=get_args(Kernels), default="xla", help="of what is compiled for an H200")
    parser.add_argument("--dap", type=int, default=1, help="devices that share a protein")
    parser.add_argument("--curve", nargs="*", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--parts", nargs="*", type=int, default=[])
    parser.add_argument("--cpu", nargs="*", type=int, default=[])
    parser.add_argument("--blocks", type=int, default=48, help="Evoformer blocks of the network timed on this CPU")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=512, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=1024)
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if flags.quick:
        flags.residues, flags.gib, flags.curve, flags.parts = [256], [1.0], [256], []
    rows, execution = (flags.rows, flags.extra_rows), Execution(kernels=flags.kernels)
    config = preset(flags.preset)
    report: dict = {"target": H200.name, "jax": jax.__version__, "preset": flags.preset, "rows": rows}
    report["kernels"] = flags.kernels
    report |= {"budgets": [], "curve": [], "parts": [], "cpu": []}
    for num_res in flags.residues:
        arguments = specs(config, num_res, rows, execution)
        for size in flags.gib or BUDGETS[num_res]:
            try:
                report["budgets"] += ahead_of_time(config, int(size * GIB), arguments, execution, flags.dap)
            except BudgetError as error:
                print(error)
    print(measure.table(report["budgets"], COLUMNS), flush=True)
    for num_res in flags.curve:
        chunked = autochunk(make_apply(config, execution), "min", target=H200, donate_argnums=(2,))
        report["curve"] += curve(chunked, num_res, specs(config, num_res, rows, execution))
    print(measure.table(report["curve"], ["residues", "peak_gib", "slowdown"]), flush=True)
    for num_res in flags.parts:
        for row in autochunk_parts.compare(num_res, rows, execution):
            report["parts"].append(row)
            print(row, flush=True)
    print(measure.table(report["parts"], autochunk_parts.COLUMNS), flush=True)
    for num_res in flags.cpu:
        report["cpu"].append(on_this_cpu(flags.preset, num_res, rows, flags.blocks, flags.turns))
    print(measure.table(report["cpu"], CPU_COLUMNS), flush=True)
    if flags.plot:
        plot(report["curve"], flags.plot)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
