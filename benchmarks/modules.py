"""Each module of the trunk by itself on this machine's CPU: ours against PyPI `alphafold-colabfold`, in turn.

    python benchmarks/modules.py --residues 128 --rows 128 --json modules.json

Both get the same drawn parameters and activations and are compiled alone, a few layers in a scan as in the network,
so that memory is allocated once for all layers. The peer runs as its users run it: fused triangle projections, four
rows of attention at a time. `--only triangle` picks modules by part of their name.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

import dataclasses  # noqa: E402

import draws  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
import ours  # noqa: E402
import recorded  # noqa: E402
import reference  # noqa: E402
import reference_modules  # noqa: E402

PRESET = "model_1_ptm"
LAYERS = 3
COLUMNS = ["module", "ours_ms", "peer_ms", "ratio", "ours_cpu_ms", "peer_cpu_ms", "cpu_ratio"]


def in_layers(apply):
    """`LAYERS` applications in a row, each adding its update to what it read: one compiled scan, as in the network."""

    def run(params, inputs):
        def step(x, layer):
            out = apply(layer, x)
            if isinstance(out, tuple):
                return dataclasses.replace(x, msa=out[0], pair=out[1]), None
            name = "msa" if out.shape == x.msa.shape else "pair"
            return dataclasses.replace(x, **{name: getattr(x, name) + 0.1 * out}), None

        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (LAYERS, *leaf.shape)), params)
        return jax.lax.scan(step, inputs, stacked)[0]

    return jax.jit(run)


def compare(name: str, sizes: tuple[int, int, int], rounds: int, precision: str = "float32") -> dict:
    """Times one module on both sides; `ratio` is how many times as fast ours is.

    Args:
      sizes: residues, MSA rows, extra MSA rows.
    """
    num_res, rows, extra_rows = sizes
    theirs = reference_modules.MODULES[name]
    extra = "extra_msa_stack" in theirs.scope
    drawn = draws.activations(
        0, rows=extra_rows if extra else rows, num_res=num_res, c_m=64 if extra else 256, c_z=128, masked=False
    )
    inputs = jax.device_put(reference_modules.Inputs(**drawn))
    if precision == "bf16":
        inputs = jax.tree.map(lambda x: x.astype("bfloat16"), inputs)
    flat = recorded.parameters(PRESET)

    module = ours.of_block(name, PRESET, ours.execution(precision))
    state, apply = module.state(flat), in_layers(module.apply)
    peer_config = reference.config(PRESET, fused_triangles=True, precision=precision)
    params = reference_modules.parameters(theirs, flat, fuse=True)
    peer = in_layers(reference_modules.function(theirs, peer_config, training=False))
    calls = {
        "ours": lambda: jax.block_until_ready(apply(state, inputs)),
        "peer": lambda: jax.block_until_ready(peer(params, inputs)),
    }
    times = measure.interleaved(calls, rounds)
    row = {"module": name}
    for side, figures in times.items():
        row |= {
            f"{side}_ms": 1e3 * figures["seconds"] / LAYERS,
            f"{side}_cpu_ms": 1e3 * figures["cpu_seconds"] / LAYERS,
        }
    row["ratio"] = row["peer_ms"] / row["ours_ms"]
    row["cpu_ratio"] = row["peer_cpu_ms"] / row["ours_cpu_ms"]
    return row


def main() -> None:
    """Parses flags, compares the modules, prints a line as each is done."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--residues", type=int, default=256)
    parser.add_argument("--rows", type=int, default=128, help="MSA rows")
    parser.add_argument("--extra-rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the names of the modules to run")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    flags = parser.parse_args()
    sizes, rounds = (flags.residues, flags.rows, flags.extra_rows), flags.rounds
    if flags.quick:
        sizes, rounds = (64, 32, 64), 3
    report = {"machine": measure.machine(), "sizes": sizes, "precision": flags.precision, "modules": []}
    for name in reference_modules.MODULES:
        if flags.only in name:
            report["modules"].append(compare(name, sizes, rounds, flags.precision))
            lines = measure.table(report["modules"][-1:], COLUMNS).splitlines()
            print("\n".join(lines if len(report["modules"]) == 1 else lines[1:]), flush=True)
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()
