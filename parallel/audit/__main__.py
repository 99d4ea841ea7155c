"""`python -m parallel.audit`: compiles a step for devices that need not exist, and says what hides its collectives.

    pip install 'fastfold-jax[aot]'
    python -m parallel.audit --model model_3_ptm --residues 2048 --dap 8
    python -m parallel.audit --part block-training --residues 256 --rows 128 --data 128 --dap 4
    python -m parallel.audit --target tpu:v5e:2x4 --dap 8

Nothing runs. Times come from a model: matrix products and memory traffic at fixed rates, a latency and a bandwidth for
collectives, compute and links side by side. Each rate is an option.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import get_args

import jax

from fastfold_jax.config.execution import Execution, Kernels
from fastfold_jax.config.presets import preset
from fastfold_jax.errors import UserError
from parallel.audit import programs
from parallel.audit.cost import Machine
from parallel.audit.profile import compile_profiled
from parallel.audit.report import Audit, audit, table
from parallel.audit.target import gpus


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m parallel.audit",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--part", choices=get_args(programs.Part), default="pass", help="what is compiled")
    parser.add_argument("--model", default="model_3_ptm", metavar="NAME")
    parser.add_argument("--residues", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=512, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=1024)
    parser.add_argument("--blocks", type=int, help="Evoformer blocks (default: the model's)")
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument(
        "--kernels",
        choices=get_args(Kernels),
        default="xla",
        help="kernels' own arithmetic is not counted",
    )
    parser.add_argument(
        "--fused",
        action="store_true",
        help="count memory traffic as if each operation were one kernel that keeps to the chip what it alone reads",
    )
    parser.add_argument(
        "--profiled", action="store_true", help="let XLA schedule by the cost model's times, as by a profile of a run"
    )
    parser.add_argument("--remat", action="store_true", help="recompute each block's activations in the backward pass")
    parser.add_argument("--memory-budget", metavar="BYTES|min", help="for AutoChunk (default: no chunking)")
    parser.add_argument("--dap", type=int, default=8, help="devices that share a protein")
    parser.add_argument("--data", type=int, default=1, help="proteins at a time (parts block and block-training)")
    parser.add_argument("--target", default="h200", help=f"{', '.join(gpus())}, a .textproto file, or tpu:TOPOLOGY")
    parser.add_argument("--no-baseline", action="store_true", help="do not compile for one device to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    machine = parser.add_argument_group("cost model")
    for field in dataclasses.fields(Machine):
        option = f"--{field.name.replace('_', '-')}"
        machine.add_argument(option, type=type(field.default), default=field.default, metavar="N")
    return parser


def run(flags: argparse.Namespace) -> dict:
    """Compiles, prints the table, and returns the figures.

    Raises:
      UserError: if something asked for cannot be.
    """
    if flags.profiled and flags.target.startswith("tpu:"):
        raise UserError("--profiled: XLA takes a profile for GPUs alone")
    sizes = {"evoformer_blocks": flags.blocks} if flags.blocks else {}
    config = preset(flags.model, **sizes)
    machine = Machine(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Machine)})
    execution = Execution(precision=flags.precision, kernels=flags.kernels, remat=flags.remat)
    of_protein = programs.Sizes(
        residues=flags.residues, rows=flags.rows, extra_rows=flags.extra_rows, templates=config.num_templates
    )
    budget = int(flags.memory_budget) if (flags.memory_budget or "").isdigit() else flags.memory_budget

    def audited(data: int, dap: int) -> Audit:
        mesh = programs.mesh_of(flags.target, data=data, dap=dap, per_node=machine.devices_per_node)
        lowered = programs.lower(flags.part, config, of_protein, execution, mesh, budget)
        profiled = flags.profiled and dap > 1
        compiled = compile_profiled(lowered, machine, fused=flags.fused) if profiled else lowered.compile()
        return audit(compiled, dap, machine, fused=flags.fused)

    found = audited(flags.data, flags.dap)
    baseline = None if flags.no_baseline or flags.dap == 1 else audited(1, 1)
    print(table(found, baseline), flush=True)
    return {
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(flags).items()},
        "machine": dataclasses.asdict(machine),
        "audit": found.to_json(),
        "baseline": baseline and baseline.to_json(),
        "efficiency": baseline and baseline.seconds / (flags.dap * found.seconds),
    }


def main() -> int:
    """Parses, runs, writes JSON; 2 for an error of the user's."""
    flags = arguments().parse_args()
    jax.config.update("jax_platforms", "cpu")  # the plug-in compiles for an accelerator without being a backend here
    try:
        report = run(flags)
    except UserError as error:
        sys.stderr.write(f"parallel.audit: error: {error}\n")
        return 2
    if flags.json is not None:
        flags.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
