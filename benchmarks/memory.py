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

os.environ["JAX_PLATFORMS"] = "cpu"  # the plug-in compiles for CUDA without being a backend here
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from fastfold_jax.config.execution import Execution  # noqa: E402
from fastfold_jax.config.presets import preset  # noqa: E402
from fastfold_jax.data.batch import Features  # noqa: E402
from fastfold_jax.model.alphafold import abstract_state, make_apply  # noqa: E402
from fastfold_jax.model.recycling import init_prev  # noqa: E402

TARGET = ROOT / "benchmarks" / "targets" / "h200.textproto"
COLUMNS = ["preset", "residues", "argument_gib", "temporary_gib", "output_gib", "peak_gib", "compile_s"]


def one_gpu() -> NamedSharding:
    """Arrays whole on a single H200 that need not exist."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=TARGET.read_text(), topology="1x1x1")
    return NamedSharding(Mesh(np.array(topology.devices).reshape(1), ("x",)), PartitionSpec())


def abstract_features(num_res: int, rows: int, extra_rows: int, templates: int) -> Features:
    """Shapes and types of one pass's features."""

    def spec(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    n, t = num_res, templates
    whole = {name: spec(n, dtype=jnp.int32) for name in ("aatype", "residue_index", "asym_id", "entity_id", "sym_id")}
    return Features(
        **whole,
        seq_mask=spec(n),
        msa_feat=spec(rows, n, 49),
        msa_mask=spec(rows, n),
        extra_msa=spec(extra_rows, n, dtype=jnp.int8),
        extra_deletion_value=spec(extra_rows, n),
        extra_msa_mask=spec(extra_rows, n),
        template_aatype=spec(t, n, dtype=jnp.int32),
        template_all_atom_positions=spec(t, n, 37, 3),
        template_all_atom_mask=spec(t, n, 37),
        template_mask=spec(t),
    )


def plan(preset_name: str, num_res: int, rows: tuple[int, int], execution: Execution) -> dict:
    """Compiles one pass and reads off its memory.

    Args:
      rows: MSA rows, extra MSA rows.
    """
    config, sharding = preset(preset_name), one_gpu()
    arguments = (
        abstract_state(config),
        abstract_features(num_res, *rows, config.num_templates),
        jax.eval_shape(lambda: init_prev(num_res, config, execution)),
    )
    arguments = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), arguments)
    start = time.perf_counter()
    compiled = jax.jit(make_apply(config, execution), donate_argnums=2).lower(*arguments).compile()
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
    flags = parser.parse_args()
    presets, lengths = flags.presets, flags.residues
    if flags.quick:
        presets, lengths = ["model_3_ptm"], [256]
    execution = Execution(precision=flags.precision)
    report = {"target": "NVIDIA H200", "jax": jax.__version__, "rows": [flags.rows, flags.extra_rows]}
    report |= {"precision": flags.precision, "results": []}
    for name in presets:
        for num_res in lengths:
            row = plan(name, num_res, (flags.rows, flags.extra_rows), execution)
            report["results"].append(row)
            lines = measure.table([row], COLUMNS).splitlines()
            print("\n".join(lines if len(report["results"]) == 1 else lines[1:]), flush=True)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
