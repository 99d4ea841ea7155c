"""One process of a run of several, started by `test_hosts.py`: predicts, makes a gradient step, writes what it got.

    python two_processes.py PORT NUM_PROCESSES PROCESS_ID OUT MODE

There are four devices, however many processes share them. MODE `step` does the above; `disagree` compares what
differs; `lose` makes the last process end in the middle while the first goes on exchanging.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent)]

import jax

PORT, COUNT, INDEX, OUT, MODE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
jax.config.update("jax_num_cpu_devices", 4 // COUNT)
jax.config.update("jax_platforms", "cpu")

import numpy as np
import whole_model

from fastfold_jax.model.alphafold import make_apply
from fastfold_jax.model.distributed import argument_specs, distribute, for_mesh, named_shardings, start_prev
from parallel import make_mesh
from parallel.hosts import HostError, Hosts, agree, connect, fetch, watched

ROWS, RESIDUES, RATE = 5, 11, 1e-2


def step() -> None:
    """A prediction on four devices, and one step down its gradient."""
    config, execution = whole_model.network("model_3_ptm"), whole_model.EXECUTION
    mesh = make_mesh(dap=4)
    local = for_mesh(execution, mesh)
    apply = distribute(make_apply(config, local), mesh, config, local)
    batch = whole_model.features(config, num_res=RESIDUES, rows=ROWS, extra_rows=7, templates=0)
    arguments = (
        whole_model.parameters(config),
        whole_model.padded(batch, 4),
        start_prev(12, config, execution, mesh),
    )
    shardings = named_shardings(mesh, argument_specs(config))
    arguments = tuple(
        jax.tree.map(lambda s, t: jax.device_put(t, s), s, a) for s, a in zip(shardings, arguments, strict=True)
    )

    def loss(state, features, prev):
        outputs, _ = apply(state, features, prev)
        return whole_model.weighted(whole_model.cut(outputs, ROWS, RESIDUES)), outputs

    (value, outputs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(*arguments)
    steps = jax.tree.leaves(fetch(jax.tree.map(lambda g: -RATE * g, gradient)))
    parts = whole_model.cut(fetch(outputs), ROWS, RESIDUES)
    # What each process has for itself stays as it is, beside what is spread over them.
    assert fetch({"spread": value, "own": np.arange(3)})["own"].tolist() == [0, 1, 2]
    if jax.process_index() == 0:
        np.savez(OUT, value=value, **parts, **{f"step_{i}": leaf for i, leaf in enumerate(steps)})


def lose() -> None:
    """Exchanges for ever, until the last process ends without a word."""
    mesh = make_mesh(dap=4)
    total = jax.jit(
        jax.shard_map(
            lambda x: jax.lax.psum(x, "dap"),
            mesh=mesh,
            in_specs=jax.P("dap"),
            out_specs=jax.P(),
            check_vma=False,
        )
    )
    x = jax.make_array_from_callback(
        (4,), jax.NamedSharding(mesh, jax.P("dap")), lambda index: np.ones(4, np.float32)[index]
    )
    for number in range(10_000):
        with watched():
            np.asarray(total(x).addressable_data(0))
        if number == 5 and INDEX == COUNT - 1:
            os._exit(9)


def main() -> int:
    hosts = Hosts(coordinator=f"localhost:{PORT}", num_processes=COUNT, process_id=INDEX, lost_seconds=10)
    try:
        if COUNT > 1:
            connect(hosts)
        agree(mode=MODE, devices=jax.local_device_count())
        if MODE == "disagree":
            agree(crop=256, seed=INDEX)
        {"step": step, "lose": lose}.get(MODE, lambda: None)()
    except HostError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # a lost process cannot be waited for
    return 0


if __name__ == "__main__":
    sys.exit(main())
