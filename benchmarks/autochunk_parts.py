"""The parts of AlphaFold 2 by themselves: what AutoChunk's estimate says of their memory, against XLA for an H200."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fastfold_jax.autochunk import BudgetError, autochunk, fit
from fastfold_jax.autochunk.target import H200
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.model.evoformer import evoformer_stack, extra_msa_stack, run_stack
from fastfold_jax.model.structure import StructureModule
from fastfold_jax.model.templates import template_embedder
from parallel.audit import programs

GIB = 2**30
COLUMNS = ["part", "residues", "form", "estimate_gib", "peak_gib", "error"]
# Blocks of a stack: XLA needs the same for two as for 48.
_BLOCKS = 2
# Of what the part takes whole, beside its arguments: small enough that everything large is cut.
_SHARE = 1 / 16


def parts(num_res: int, rows: tuple[int, int], execution: Execution) -> Iterator[tuple[str, Callable, Any, tuple]]:
    """(name, function of a state and arrays, the state, the arrays), the last two abstract."""
    config = preset("model_1_ptm", evoformer_blocks=_BLOCKS, extra_msa_blocks=_BLOCKS)
    n, dtype = num_res, execution.dtype
    array = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    pair, residues = array(n, n, config.c_z), array(n)
    stacks = {"Evoformer": (evoformer_stack, rows[0], config.c_m), "extra MSA": (extra_msa_stack, rows[1], config.c_e)}
    for name, (make, num_rows, channels) in stacks.items():

        def run(stack, m, z, msa_mask, seq_mask):
            return run_stack(stack, m, z, (msa_mask, seq_mask), key=None, remat=False)

        arrays = (array(num_rows, n, channels), pair, array(num_rows, n), residues)
        yield name, *_split(make(config, execution), run), arrays
    sizes = programs.Sizes(residues=n, rows=rows[0], extra_rows=rows[1], templates=config.num_templates)
    features = programs.abstract_features(sizes)
    embedder = template_embedder(config, execution)
    yield "templates", *_split(embedder, lambda m, z, f: m.pair_update(z, f, None)), (pair, features)
    arguments = (array(n, config.c_s), pair, array(n, dtype=jnp.int32), array(n, dtype=jnp.float32))
    yield "structure", *_split(StructureModule(config, execution), lambda m, *x: m(*x)), arguments


def _split(module: nnx.Module, call: Callable) -> tuple[Callable, Any]:
    """A pure function of the module's state and other arrays, and the state's shapes."""
    graph, state = nnx.split(module)
    return lambda state, *arrays: call(nnx.merge(graph, state), *arrays), jax.eval_shape(lambda: state)


def compare(num_res: int, rows: tuple[int, int], execution: Execution) -> Iterator[dict]:
    """A row for each part, whole and in chunks: bytes by estimate and by XLA's buffer assignment."""
    mesh = programs.mesh_of("h200", data=1, dap=1, per_node=8)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for name, function, state, arrays in parts(num_res, rows, execution):
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), (state, *arrays))
        plan = autochunk(function, 2**60, target=H200).explain(*placed)
        budget = int(plan.arguments + _SHARE * (plan.before - plan.arguments))
        for form, size in (("whole", 2**60), ("chunked", budget)):
            row = {"part": name, "residues": num_res, "form": form}
            try:
                yield row | _sizes(function, size, placed)
            except BudgetError as error:
                yield row | _sizes(function, error.smallest, placed)


def _sizes(function: Callable, budget: int, arguments: tuple) -> dict:
    chunked = autochunk(function, budget, float("inf"), target=H200)
    peak = fit.peak_bytes(jax.jit(chunked).lower(*arguments).compile())
    estimate = chunked.explanations[-1].after
    return {"estimate_gib": estimate / GIB, "peak_gib": peak / GIB, "error": estimate / peak - 1}
