"""Training steps on NVIDIA H200s that need not exist: memory from XLA's buffer assignment, time from a cost model.

    pip install 'fastfold-jax[aot,train,triton]'
    python benchmarks/training.py --json training.json
    python benchmarks/training.py --data 128 --dap 4 --of time      # 512 devices, gradients' reduction included

Compiles the whole step of the presets `initial` (256 residues, 128 + 1,024 MSA rows) and `fine-tuning` (384 residues,
512 + 5,120) ahead of time, one example for each row of devices, and reads off the memory of a device: parameters,
their average and Adam's moments included. The time is predicted from the schedule (`parallel.audit`) of XLA's form of
the step, since kernels' own arithmetic is not known to the audit: matrix products at the rate of their precision and
memory traffic at a share of the machine's peak, what one operation alone reads not counted, as if each were a kernel,
and collectives that nothing hides. The number of recycles is drawn at each step, so the passes before the last count as
often as they are made in the mean. With --run steps are measured on the devices at hand instead.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
if "--run" not in sys.argv:
    os.environ["JAX_PLATFORMS"] = "cpu"  # the plug-in compiles for CUDA without being a backend here

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from fastfold_jax.config.execution import Execution, Kernels  # noqa: E402
from fastfold_jax.config.training import Stage, stage  # noqa: E402
from fastfold_jax.data.labels import Labels, TrainingBatch  # noqa: E402
from fastfold_jax.model.alphafold import abstract_state  # noqa: E402
from fastfold_jax.training.step import make_step, start_state, whole  # noqa: E402
from parallel import DATA, make_mesh  # noqa: E402
from parallel.audit import programs  # noqa: E402
from parallel.audit.cost import Machine  # noqa: E402
from parallel.audit.report import audit  # noqa: E402

MEMORY = ["argument_gib", "temporary_gib", "host_gib", "peak_gib"]
TIME = ["seconds_per_step", "seconds_per_pass", "hidden"]


def abstract_batch(chosen: Stage, mesh: Mesh) -> TrainingBatch:
    """Shapes of a batch with one example for each row of devices."""
    model, rows = chosen.model, mesh.shape[DATA]
    sizes = programs.Sizes(
        residues=chosen.crop_size,
        rows=model.num_clusters,
        extra_rows=model.num_extra_msa,
        templates=model.num_templates,
    )
    passes = model.num_recycles + 1
    split, everywhere = NamedSharding(mesh, PartitionSpec(DATA)), whole(mesh)

    def leaf(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=split)

    features = jax.tree.map(lambda x: leaf((passes, *x.shape), x.dtype), programs.abstract_features(sizes))
    n, clusters = sizes.residues, sizes.rows
    labels = Labels(
        atom_positions=leaf((1, n, 37, 3)),
        atom_mask=leaf((1, n, 37)),
        resolution=leaf(()),
        use_clamped_fape=leaf(()),
        true_msa=leaf((clusters, n), jnp.int8),
        bert_mask=leaf((clusters, n)),
    )
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    return TrainingBatch(features=features, labels=labels, num_recycles=number)


def divisible(chosen: Stage, dap: int) -> Stage:
    """The stage with clusters, extra rows and residues that divide over the devices."""
    model = chosen.model
    up = lambda count: -(-count // dap) * dap  # noqa: E731
    templates = model.num_templates if model.msa_includes_templates else 0
    model = dataclasses.replace(
        model, num_msa=up(model.num_clusters) + templates, num_extra_msa=up(model.num_extra_msa)
    )
    return dataclasses.replace(chosen, model=model, crop_size=up(chosen.crop_size))


def abstract_start(chosen: Stage, mesh: Mesh):
    """Shapes of the state, whole on every device."""
    state = jax.eval_shape(lambda parameters: start_state(chosen, 0, parameters), abstract_state(chosen.model))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)), state)


def transform(budget: str | None):
    """AutoChunk around the network, if there is a budget."""
    if budget is None:
        return lambda apply: apply
    from fastfold_jax.autochunk import autochunk
    from fastfold_jax.autochunk.target import H200

    return lambda apply: autochunk(apply, memory_budget=int(budget) if budget.isdigit() else budget, target=H200)


def compiled(name: str, grid: tuple[int, int], execution: Execution, budget: str | None):
    """One step for `data` rows of `dap` devices that share an example each, and the seconds that compiling it took."""
    data, dap = grid
    chosen = dataclasses.replace(divisible(stage(name), dap), batch_size=data)
    mesh = programs.mesh_of("h200", data=data, dap=dap, per_node=Machine().devices_per_node)
    step = make_step(chosen, execution, mesh, transform=transform(budget))
    begun = time.perf_counter()
    with programs.kernels_for(mesh.devices.flat[0]):
        found = step.lower(abstract_start(chosen, mesh), abstract_batch(chosen, mesh)).compile()
    return found, time.perf_counter() - begun


def memory(name: str, grid: tuple[int, int], execution: Execution, budget: str | None) -> dict:
    """GiB of a device, and of the host for each."""
    step, seconds = compiled(name, grid, execution, budget)
    stats = step.memory_analysis()
    sizes = {
        kind: getattr(stats, f"{kind}_size_in_bytes") / 2**30
        for kind in ("argument", "temp", "output", "alias", "host_temp")
    }
    return {
        "argument_gib": sizes["argument"],
        "temporary_gib": sizes["temp"],
        "host_gib": sizes["host_temp"],
        "peak_gib": sizes["argument"] + sizes["temp"] + sizes["output"] - sizes["alias"],
        "memory_compile_s": seconds,
    }


def predicted(name: str, grid: tuple[int, int], execution: Execution, budget: str | None) -> dict:
    """Seconds of a step with the mean number of recycles, and of one such pass."""
    step, seconds = compiled(name, grid, dataclasses.replace(execution, kernels="xla"), budget)
    found = audit(step, grid[1], Machine(), fused=True)
    most = stage(name).model.num_recycles
    # How often the loop over passes turns is not known when it is compiled: the audit counts one.
    passes = [loop.seconds for loop in found.timeline.loops if loop.trips == 1 and loop.loops]
    if len(passes) != bool(most):
        raise RuntimeError(f"{len(passes)} loops of the step turn an unknown number of times; the passes should alone")
    one_pass = sum(passes)
    return {
        "seconds_per_step": found.seconds + (most / 2 - 1) * one_pass,
        "seconds_per_pass": one_pass,
        "hidden": found.hidden(),
        "time_compile_s": seconds,
    }


def run_here(name: str, execution: Execution, dap: int, steps: int) -> dict:
    """Times steps on the devices at hand, with features of zeros: the time does not depend on them."""
    mesh = make_mesh(dap=dap)
    chosen = dataclasses.replace(divisible(stage(name), dap), batch_size=mesh.shape[DATA])
    step = make_step(chosen, execution, mesh)
    shapes = abstract_batch(chosen, mesh)
    batch = jax.tree.map(lambda x: jax.device_put(jnp.ones(x.shape, x.dtype), x.sharding), shapes)
    state = jax.device_put(start_state(chosen, 0), whole(mesh))
    times = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - begun)
    seconds = sorted(times[1:])[steps // 2]
    device = mesh.devices.flat[0]
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    residues = chosen.crop_size * chosen.batch_size
    return {
        "preset": name,
        "dap": dap,
        "peak_gib": peak,
        "seconds_per_step": seconds,
        "residues_per_second": residues / seconds,
        "compile_s": times[0] - seconds,
        "device": device.device_kind,
    }


def main() -> None:
    """Parses flags, compiles or runs each step, prints a line as each is done."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["initial", "fine-tuning"])
    parser.add_argument("--dap", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--kernels", choices=get_args(Kernels), default="auto")
    parser.add_argument("--data", type=int, default=1, metavar="N", help="rows of devices, one example each")
    parser.add_argument("--of", nargs="+", choices=("memory", "time"), default=["memory", "time"])
    parser.add_argument("--no-remat", action="store_true")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--memory-budget", metavar="BYTES|min", help="for AutoChunk (default: no chunking)")
    parser.add_argument("--run", type=int, metavar="STEPS", help="measure so many steps on the devices at hand")
    flags = parser.parse_args()
    presets, parts = (["demo"], [1]) if flags.quick else (flags.presets, flags.dap)
    remat = False if flags.no_remat else "offload" if flags.offload else True
    execution = Execution(precision=flags.precision, kernels=flags.kernels, remat=remat)
    report = {"target": "NVIDIA H200", "jax": jax.__version__, "execution": repr(execution), "results": []}
    ahead = MEMORY * ("memory" in flags.of) + TIME * ("time" in flags.of)
    columns = ["preset", "dap", *(["peak_gib", "seconds_per_step", "residues_per_second"] if flags.run else ahead)]
    for name in presets:
        for dap in parts:
            if flags.run:
                row = run_here(name, execution, dap, flags.run)
            else:
                row = {"preset": name, "data": flags.data, "dap": dap}
                for part, of in (("memory", memory), ("time", predicted)):
                    row |= of(name, (flags.data, dap), execution, flags.memory_budget) if part in flags.of else {}
            report["results"].append(row)
            lines = measure.table([row], columns).splitlines()
            print("\n".join(lines if len(report["results"]) == 1 else lines[1:]), flush=True)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
