"""Memory of one pass on an NVIDIA H200, from XLA's own buffer assignment, compiled on a machine with no GPU.

    pip install 'fastfold-jax[aot]'
    python benchmarks/memory.py --json memory.json

For each preset and length: GiB of arguments (parameters, features, the previous pass), temporaries, outputs, and the
peak, which is their sum less what outputs share with arguments (the previous pass is donated). 512 + 1,024 MSA rows and
bf16 unless told otherwise. Nothing runs: what a GPU adds (the CUDA context, cuBLAS workspaces, NCCL) is not counted,
nor are GEMMs autotuned.
"""

import os
import sys
import time
from pathlib import Path
from typing import get_args

os.environ["JAX_PLATFORMS"] = "cpu"  # the plug-in compiles for CUDA without being a backend here
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import measure  # noqa: E402

from fastfold_jax.config.execution import Execution, Kernels  # noqa: E402
from fastfold_jax.config.presets import preset  # noqa: E402
from parallel.audit import programs  # noqa: E402

COLUMNS = ["preset", "residues", "argument_gib", "temporary_gib", "output_gib", "peak_gib", "compile_s"]


def plan(preset_name: str, num_res: int, rows: tuple[int, int], execution: Execution) -> dict:
    """Compiles one pass and reads off its memory.

    Args:
      rows: MSA rows, extra MSA rows.
    """
    config = preset(preset_name)
    mesh = programs.mesh_of("h200", data=1, dap=1, per_node=8)
    sizes = programs.Sizes(residues=num_res, rows=rows[0], extra_rows=rows[1], templates=config.num_templates)
    start = time.perf_counter()
    compiled = programs.lower("pass", config, sizes, execution, mesh).compile()
    seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    argument, temporary, output = (
        getattr(stats, f"{kind}_size_in_bytes") / 2**30 for kind in ("argument", "temp", "output")
    )
    return {
        "preset": preset_name,
        "residues": num_res,
        "argument_gib": argument,
        "temporary_gib": temporary,
        "output_gib": output,
        "peak_gib": argument + temporary + output - stats.alias_size_in_bytes / 2**30,
        "compile_s": seconds,
    }


def main() -> None:
    """Parses flags, compiles each size, prints a line as each is done."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["model_1_ptm", "model_3_ptm", "model_1_multimer_v3"])
    parser.add_argument("--residues", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--rows", type=int, default=512, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=1024)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--kernels", choices=get_args(Kernels), default="xla", help="auto: where they can run")
    flags = parser.parse_args()
    presets, lengths = flags.presets, flags.residues
    if flags.quick:
        presets, lengths = ["model_3_ptm"], [256]
    execution = Execution(precision=flags.precision, kernels=flags.kernels)
    report = {"target": "NVIDIA H200", "jax": jax.__version__, "rows": [flags.rows, flags.extra_rows]}
    report |= {"precision": flags.precision, "kernels": flags.kernels, "results": []}
    for name in presets:
        for num_res in lengths:
            row = plan(name, num_res, (flags.rows, flags.extra_rows), execution)
            report["results"].append(row)
            lines = measure.table([row], COLUMNS).splitlines()
            print("\n".join(lines if len(report["results"]) == 1 else lines[1:]), flush=True)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
