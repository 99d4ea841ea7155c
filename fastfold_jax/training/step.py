"""One training step: recycling, gradient of the last pass, clipping, update; on any mesh of data x dap devices.

Every device of a row along `data` works on one example at a time. Parameters enter `shard_map` with a leading axis of
rows, so that its transposition sums their gradient over the devices that share an example, and keeps examples apart:
each gradient is clipped before the mean is taken. A device that has several examples takes them one after another.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PRNGKeyArray

from fastfold_jax.config.execution import Execution
from fastfold_jax.config.training import Stage
from fastfold_jax.constants.atoms import ATOM37_INDEX
from fastfold_jax.data.batch import Features
from fastfold_jax.data.labels import Labels, TrainingBatch
from fastfold_jax.losses.permutation import match_copies
from fastfold_jax.losses.total import LossReport, total_loss
from fastfold_jax.model.alphafold import Apply, init_state, make_apply
from fastfold_jax.model.distributed import check_splits, feature_specs, for_mesh, on_mesh, prev_specs
from fastfold_jax.model.evoformer import block_type
from fastfold_jax.model.recycling import Prev, init_prev
from fastfold_jax.training.optimizer import clip_each, learning_rate, make_optimizer, moving_average
from parallel import DATA

_EXAMPLES = PartitionSpec(DATA)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that a step changes.

    Attributes:
      parameters, average: The network's, and their moving average, which validation and export use.
      optimizer: Adam's moments and the number of updates.
      step: [] int32 steps made, skipped ones included.
      key: Of all dropout.
      skipped, skipped_in_a_row: [] int32 steps without update, because a gradient was not finite.
    """

    parameters: Any
    average: Any
    optimizer: Any
    step: Any
    key: Any
    skipped: Any
    skipped_in_a_row: Any


def start_state(stage: Stage, seed: int, parameters: Any | None = None) -> TrainState:
    """The state before the first step.

    Args:
      parameters: Where to start from; None for freshly drawn ones.
    """
    parameters = init_state(stage.model, seed) if parameters is None else parameters
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return TrainState(
        parameters=parameters,
        average=jax.tree.map(jnp.copy, parameters),
        optimizer=make_optimizer(stage.optimizer).init(parameters),
        step=zero(),
        key=jax.random.key_data(jax.random.key(seed)),
        skipped=zero(),
        skipped_in_a_row=zero(),
    )


Step = Callable[[TrainState, TrainingBatch], tuple[TrainState, dict[str, Array]]]


def make_step(
    stage: Stage, execution: Execution, mesh: Mesh, *, transform: Callable[[Apply], Apply] = lambda apply: apply
) -> Step:
    """The compiled step `(state, batch) -> (state, metrics)`; the state is donated.

    Args:
      execution: Precision, kernels, remat; its axis and outputs are set here.
      mesh: The number of examples of a batch must be a multiple of its size along `data`.
      transform: What happens to the network from outside, such as AutoChunk.

    Raises:
      UserError: if the network cannot be split over so many devices.
    """
    check_splits(stage.model, mesh)
    gradients = make_gradients(stage, execution, mesh, transform=transform)
    optimizer, rate = make_optimizer(stage.optimizer), learning_rate(stage.optimizer)

    def step(state: TrainState, batch: TrainingBatch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradient, metrics = gradients(state.parameters, batch, key)
        finite = jnp.isfinite(metrics["gradient_norm"]) & jnp.isfinite(metrics["loss"])
        updates, moved = optimizer.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        average = moving_average(state.average, parameters, stage.optimizer.ema_decay)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
        skip = 1 - finite.astype(jnp.int32)
        in_a_row = (state.skipped_in_a_row + 1) * skip
        metrics |= {"learning_rate": rate(state.optimizer[-1].count), "skipped": skip, "skipped_in_a_row": in_a_row}
        state = TrainState(
            parameters=keep(parameters, state.parameters),
            average=keep(average, state.average),
            optimizer=keep(moved, state.optimizer),
            step=state.step + 1,
            key=state.key,
            skipped=state.skipped + skip,
            skipped_in_a_row=in_a_row,
        )
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(whole(mesh), whole(mesh)))


def whole(mesh: Mesh) -> NamedSharding:
    """How the state lies on the mesh: all of it on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: TrainingBatch, mesh: Mesh) -> TrainingBatch:
    """This process's examples as its part of the whole batch, each on the devices that work on it."""
    split = NamedSharding(mesh, _EXAMPLES)
    put = lambda sharding: lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))  # noqa: E731
    return TrainingBatch(
        features=jax.tree.map(put(split), batch.features),
        labels=jax.tree.map(put(split), batch.labels),
        num_recycles=put(whole(mesh))(batch.num_recycles),
    )


def make_gradients(
    stage: Stage, execution: Execution, mesh: Mesh, *, transform: Callable[[Apply], Apply] = lambda apply: apply
) -> Callable[[Any, TrainingBatch, PRNGKeyArray], tuple[Any, dict[str, Array]]]:
    """`(parameters, batch, key) -> (gradient, metrics)`, the mean of the examples' clipped gradients."""
    recycle, loss = _recycle(stage, execution, mesh, transform), _losses(stage, execution, mesh, transform)
    rows = mesh.shape[DATA]

    def of_rows(parameters: Any, features: Features, labels: Labels, num_recycles: Array, keys: Array):
        """Clipped gradients of as many examples as the mesh has rows, [rows, ...], and their reports."""
        prev = recycle(parameters, features, num_recycles, keys)
        last = jax.tree.map(lambda leaf: leaf[:, -1], features)

        def total(parameters):
            report = loss(parameters, last, prev, labels, keys)
            return jnp.sum(report.total), report

        (_, report), gradient = jax.value_and_grad(total, has_aux=True)(parameters)
        gradient, norm = clip_each(gradient, stage.optimizer.clip)
        return gradient, _reported(report, norm)

    def gradients(parameters: Any, batch: TrainingBatch, key: PRNGKeyArray) -> tuple[Any, dict[str, Array]]:
        size = batch.labels.resolution.shape[0]
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(jnp.arange(size))
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), parameters)
        stacked = lax.with_sharding_constraint(stacked, NamedSharding(mesh, _EXAMPLES))
        # Examples [size] -> [turns, rows]: example r * turns + t is row r's in turn t, as the batch lies on devices.
        turns = size // rows
        in_turns = lambda leaf: jnp.moveaxis(leaf.reshape(rows, turns, *leaf.shape[1:]), 1, 0)  # noqa: E731
        examples = jax.tree.map(in_turns, (batch.features, batch.labels, keys))

        def take_turn(total, example):
            features, labels, turn_keys = example
            gradient, metrics = of_rows(stacked, features, labels, batch.num_recycles, turn_keys)
            return jax.tree.map(jnp.add, total, gradient), metrics

        zeros = jax.tree.map(jnp.zeros_like, stacked)
        total, metrics = lax.scan(take_turn, zeros, examples)
        # The one reduction over rows, after all turns.
        mean = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0) / size, total)
        return mean, {name: jnp.mean(value) for name, value in metrics.items()}

    return gradients


def _reported(report: LossReport, norm: Array) -> dict[str, Array]:
    terms = {f"loss/{name}": value for name, value in report.terms.items()}
    return {"loss": report.total, "gradient_norm": norm, **terms, **report.metrics}


def _batched(specs: Any, axis: str | None = DATA) -> Any:
    """The specs of one example as those of one for each row of the mesh, or with a leading axis that is whole."""
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    return jax.tree.map(lambda spec: PartitionSpec(axis, *spec), specs, is_leaf=is_spec)


def _one(tree: Any) -> Any:
    """The single example that a device works on, without its leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _many(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _recycle(stage: Stage, execution: Execution, mesh: Mesh, transform: Callable[[Apply], Apply]) -> Callable[..., Any]:
    """The passes before the last, with dropout but no gradient: `(parameters, features, number, keys) -> prev`."""
    execution = dataclasses.replace(for_mesh(execution, mesh), outputs="compact", remat=False)
    apply = transform(make_apply(stage.model, execution))
    most = stage.model.num_recycles

    def recycle(parameters: Any, features: Features, number: Array, keys: Key[Array, "rows"]) -> Prev:
        parameters, features, key = _one(parameters), _one(features), keys[0]
        prev = init_prev(features.aatype.shape[-1], stage.model, execution)

        def one_pass(index: Array, prev: Prev) -> Prev:
            of_pass = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), features)
            return apply(parameters, of_pass, prev, jax.random.fold_in(key, index) if stage.dropout else None)[1]

        return _many(lax.fori_loop(most - number, most, one_pass, prev) if most else prev)

    of_passes = _batched(feature_specs(stage.model), axis=None)
    return on_mesh(
        recycle,
        mesh,
        in_specs=(_EXAMPLES, _batched(of_passes), PartitionSpec(), _EXAMPLES),
        out_specs=_batched(prev_specs()),
    )


def _losses(stage: Stage, execution: Execution, mesh: Mesh, transform: Callable[[Apply], Apply]) -> Callable[..., Any]:
    """Reports of the last pass, [rows]: `(parameters, features, prev, labels, keys) -> LossReport`."""
    execution = dataclasses.replace(for_mesh(execution, mesh), outputs="full")
    apply = transform(make_apply(stage.model, execution))
    msa_sharded = block_type(stage.model).msa_sharded

    def report(parameters: Any, features: Features, prev: Prev, labels: Labels, keys: Key[Array, "rows"]) -> LossReport:
        features, labels = _one(features), _one(labels)
        key = jax.random.fold_in(keys[0], stage.model.num_recycles) if stage.dropout else None
        outputs, _ = apply(_one(parameters), features, _one(prev), key)
        found = total_loss(outputs, features, labels, stage.loss, axis=execution.axis, msa_sharded=msa_sharded)
        # As if each example's loss were a sum over residues that grows like their square root (supplement, 1.11.3).
        scale = jnp.sqrt(jnp.maximum(jnp.sum(features.seq_mask), 1.0))
        return _many(dataclasses.replace(found, total=found.total * scale))

    return on_mesh(
        report,
        mesh,
        in_specs=(_EXAMPLES, _batched(feature_specs(stage.model)), _batched(prev_specs()), _EXAMPLES, _EXAMPLES),
        out_specs=_EXAMPLES,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Cα atoms of a batch's predictions and of the true structures, chains of equal sequence matched.

    Attributes:
      predicted, true: [B, N, 3] Å.
      mask: [B, N], 1 where the true atom is known.
      plddt: [B] mean predicted lDDT, 0 to 100.
    """

    predicted: Any
    true: Any
    mask: Any
    plddt: Any


def make_prediction(
    stage: Stage, execution: Execution, mesh: Mesh, *, transform: Callable[[Apply], Apply] = lambda apply: apply
) -> Callable[[Any, TrainingBatch], Compared]:
    """`(parameters, batch) -> Compared`, compiled: all passes, no dropout; one example for each row of the mesh."""
    quiet = dataclasses.replace(stage, dropout=False)
    recycle = _recycle(quiet, execution, mesh, transform)
    run = dataclasses.replace(for_mesh(execution, mesh), outputs="compact")
    apply = transform(make_apply(stage.model, run))

    def last(parameters: Any, features: Features, prev: Prev, labels: Labels) -> Compared:
        features, labels = _one(features), _one(labels)
        outputs, _ = apply(_one(parameters), features, _one(prev))
        predicted = outputs.atom_positions[:, ATOM37_INDEX["CA"]]
        positions, mask = match_copies(features, labels, predicted)
        true, known = positions[:, ATOM37_INDEX["CA"]], mask[:, ATOM37_INDEX["CA"]]
        return _many(Compared(predicted=predicted, true=true, mask=known, plddt=outputs.mean_plddt))

    compare = on_mesh(
        last,
        mesh,
        in_specs=(_EXAMPLES, _batched(feature_specs(stage.model)), _batched(prev_specs()), _EXAMPLES),
        out_specs=_EXAMPLES,
    )

    def predict(parameters: Any, batch: TrainingBatch) -> Compared:
        rows = mesh.shape[DATA]
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), parameters)
        keys = jax.random.split(jax.random.key(0), rows)
        prev = recycle(stacked, batch.features, batch.num_recycles, keys)
        return compare(stacked, jax.tree.map(lambda leaf: leaf[:, -1], batch.features), prev, batch.labels)

    return jax.jit(predict)
