"""One compiled pass of a network, and the loop on the host that recycles it."""

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from fastfold_jax.autochunk import fit
from fastfold_jax.autochunk.api import autochunk
from fastfold_jax.autochunk.budget import Budget, BudgetError, gib
from fastfold_jax.autochunk.explain import Explanation
from fastfold_jax.backend.memory import memory_errors
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.model import ModelConfig
from fastfold_jax.data.batch import Features
from fastfold_jax.errors import UserError
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.inference.result import PassRecord
from fastfold_jax.model.alphafold import Outputs, abstract_state, make_apply
from fastfold_jax.model.distributed import WHOLE, argument_specs, distribute, for_mesh, named_shardings, start_prev
from fastfold_jax.model.recycling import Prev
from parallel import make_mesh
from parallel.hosts import fetch

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Of what a program took that turned out to be too large on the device: what the next may take.
_SMALLER = 0.75
# What is planned and compiled by one thread of this process at a time.
_TURNS: dict[int, threading.Lock] = {}


class PredictionError(UserError):
    """The network could not be run on this input: too little memory, or it gave no numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One pass, compiled for one network, shape and precision.

    Attributes:
      run: `(state, features, prev, key) -> (outputs, prev)`; the memory of the old `prev` serves for the new one. `key`
        is None for a network without dropout.
      start: Makes the `prev` of the first pass from the positions of an initial guess, or None.
      place: Puts parameters where the program reads them: on each of its devices.
      num_res: Residues, padding included.
      seconds: What tracing and compiling took, or waiting while another thread did so; 0 for a program that has been
        compiled for these devices already.
      from_cache: Whether it was compiled before, by this process or another.
      smaller: Compiles the same for less memory; None where that cannot be.
    """

    run: Callable[..., tuple[Outputs, Prev]]
    start: Callable[[Float[np.ndarray, "n 37 3"] | None], Prev]
    num_res: int
    seconds: float
    from_cache: bool
    place: Callable[[Any], Any]
    smaller: "Callable[[], Program] | None"


def structural(config: ModelConfig) -> ModelConfig:
    """The same network with what is no part of the program left at one value, so that equal programs are found equal.

    Sampling sizes reach the program as shapes of its features; recycling happens outside it.
    """
    return dataclasses.replace(
        config,
        name="any",
        num_msa=config.num_templates + 1,
        num_extra_msa=0,
        num_recycles=0,
        recycle_tolerance=None,
        triangle_layout="split",
    )


class Compiler:
    """Compiles each program once a process; JAX's persistent cache, where set, makes it once a machine.

    Args:
      mesh: The devices that share a protein; None for the first device alone.
      memory_budget: What a pass may take on a device.
    """

    def __init__(self, execution: Execution, mesh: Mesh | None = None, memory_budget: Budget = "device"):
        self.mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
        self.execution = for_mesh(execution, self.mesh)
        self.memory_budget = memory_budget
        self._programs: dict[Any, Program] = {}
        self._plans: dict[Any, Explanation] = {}

    def program(self, config: ModelConfig, features: Features) -> Program:
        """The pass for features of these shapes.

        Raises:
          PredictionError: if there is not enough memory to compile.
        """
        config, shapes, key = _request(config, features)
        if key in self._programs:
            return dataclasses.replace(self._programs[key], seconds=0.0, from_cache=True)
        self._programs[key] = self._compile(config, shapes, self.memory_budget)
        return self._programs[key]

    def plan(self, config: ModelConfig, features: Features) -> Explanation:
        """What `program` would compile: how much memory it takes, and what of it runs in chunks.

        Raises:
          UserError: if there is not enough memory.
        """
        config, shapes, key = _request(config, features)
        if key not in self._plans:
            self._plans[key] = self._traced(config, shapes, self.memory_budget)[0].explanations[-1]
        return self._plans[key]

    def _traced(self, config: ModelConfig, features: Features, memory_budget: Budget) -> tuple[Any, tuple[Any, ...]]:
        """The pass with its plan made, and its arguments' shapes."""
        start_recycling = functools.partial(start_prev, features.aatype.shape[0], config, self.execution, self.mesh)
        chunked = autochunk(make_apply(config, self.execution), memory_budget, donate_argnums=(2,))
        key = jax.eval_shape(lambda: jax.random.key(0)) if config.eval_dropout else None
        arguments = (abstract_state(config), features, jax.eval_shape(start_recycling), key)
        jax.eval_shape(distribute(chunked, self.mesh, config, self.execution), *arguments)
        return chunked, arguments

    def _compile(self, config: ModelConfig, features: Features, memory_budget: Budget) -> Program:
        num_res = features.aatype.shape[0]
        start_recycling = functools.partial(start_prev, num_res, config, self.execution, self.mesh)
        in_turn = functools.partial(_in_turn, config, *jax.tree.leaves(features), self.mesh.size)
        start = time.perf_counter()
        with _memory_errors(num_res), _events(_CACHE_HIT) as hits:
            with in_turn("planned"):
                chunked, arguments = self._traced(config, features, memory_budget)
            shardings = named_shardings(self.mesh, (*argument_specs(config), WHOLE))

            tried = []  # programs and their plans: more than one if XLA needs more than the first was to take

            def build(budget: Budget) -> Any:
                again = chunked.with_budget(budget)
                apply = distribute(again, self.mesh, config, self.execution)
                with in_turn("planned"):
                    lowered = jax.jit(apply, in_shardings=shardings, donate_argnums=2).lower(*arguments)
                with in_turn("compiled"):
                    program = lowered.compile()
                tried.append((program, again.explanations[-1]))
                return program

            compiled = fit.within(chunked.explanations[-1].budget, build, name=chunked.names[-1])
            plan = next(plan for program, plan in tried if program is compiled)
        seconds = time.perf_counter() - start
        logger.info(
            "%s for %d residues in %.1f s", "program taken from the cache" if hits else "compiled", num_res, seconds
        )
        peak = fit.peak_bytes(compiled)
        whole = f"in chunks; whole it would be about {gib(plan.before)}" if plan.regions else "whole"
        logger.info("memory of a pass: %s, %s", gib(peak), whole)
        return Program(
            run=compiled,
            start=start_recycling,
            num_res=num_res,
            seconds=seconds,
            from_cache=bool(hits),
            place=lambda state: jax.device_put(state, shardings[0]),
            smaller=lambda: self._compile(config, features, int(peak * _SMALLER)),
        )


def _request(config: ModelConfig, features: Features) -> tuple[ModelConfig, Features, Any]:
    """The network and the shapes of its features as far as the program depends on them, and a key made of both."""
    config = structural(config)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), features)
    return config, shapes, (config, tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(shapes)))


def _in_turn(*step: Hashable) -> AbstractContextManager:
    """Waits while another thread does the same, for devices of its own.

    What the first of them plans and compiles, the others find in JAX's persistent cache, where there is one, and which
    takes no notice of which GPU a program is for; without it they need not wait for each other.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        return nullcontext()
    return _TURNS.setdefault(hash(step), threading.Lock())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What the last pass returned, on the host, and the figures of all passes."""

    outputs: Outputs
    passes: tuple[PassRecord, ...]


def predict(
    program: Program,
    state: Any,
    stream: FeatureStream,
    recycling: Recycling,
    report: Callable[[Sequence[PassRecord]], None],
    *,
    key: PRNGKeyArray | None = None,
    initial_guess: Float[np.ndarray, "n 37 3"] | None = None,
) -> Result:
    """Recycles until `recycling` says that it is enough.

    Args:
      program: One pass.
      state: The network's parameters, on the device.
      stream: Features of each pass.
      recycling: When to stop.
      report: Called after each pass with the figures of all so far.
      key: For dropout, which each pass draws anew; None for a network without.
      initial_guess: Å; what the first pass takes for the structure of one before it.

    Returns:
      The last pass's outputs, padding included, as NumPy arrays.

    Raises:
      PredictionError: if memory does not suffice or a pass gives something else than numbers.
    """
    passes: list[PassRecord] = []
    state = program.place(state)
    prev = program.start(initial_guess)
    while True:
        features = stream.take()
        pass_key = None if key is None else jax.random.fold_in(key, len(passes))
        try:
            outputs, prev, record = _one_pass(program, state, features, prev, pass_key)
        except PredictionError as error:
            if passes or program.smaller is None:
                raise
            logger.warning("%s; trying once more with less memory", error)
            try:
                program = dataclasses.replace(program.smaller(), smaller=None)
            except BudgetError:
                raise error from None  # what helps is the same
            prev = program.start(initial_guess)
            outputs, prev, record = _one_pass(program, state, features, prev, pass_key)
        passes.append(record if passes else dataclasses.replace(record, change=float("inf")))
        report(passes)
        if not np.isfinite([record.plddt, record.change]).all():
            raise PredictionError(
                f"pass {len(passes)} gave numbers that are not finite; try --precision float32, and if that does not "
                "help the parameters are damaged"
            )
        if recycling.is_last(passes):
            break
        del outputs  # its N x N arrays need not lie beside the next pass's
    del prev
    return Result(outputs=fetch(outputs), passes=tuple(passes))


def _one_pass(program: Program, *arguments: Any) -> tuple[Outputs, Prev, PassRecord]:
    """What `program.run` returns, and its figures."""
    begun = time.perf_counter()
    with _memory_errors(program.num_res):
        outputs, prev = program.run(*arguments)
        return outputs, prev, _figures(outputs, begun)


def _figures(outputs: Outputs, begun: float) -> PassRecord:
    """The pass's scalars; waits for the device, in steps so that Ctrl-C is heard at once and not after the pass."""
    arrays: list[Any] = [leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jax.Array)]
    while not all(array.is_ready() for array in arrays):
        time.sleep(_POLL_SECONDS)
    names = ("mean_plddt", "ptm", "iptm", "change")
    values = jax.device_get({name: getattr(outputs, name) for name in names})
    plddt, ptm, iptm, change = (None if values[name] is None else float(values[name]) for name in names)
    assert plddt is not None and change is not None
    return PassRecord(plddt=plddt, ptm=ptm, iptm=iptm, change=change, seconds=time.perf_counter() - begun)


@contextmanager
def _events(name: str) -> Iterator[list[str]]:
    """A list that grows by one each time JAX records the event in this thread."""
    seen: list[str] = []
    here = threading.get_ident()

    def listen(event: str, **_: Any) -> None:
        if event == name and threading.get_ident() == here:
            seen.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _memory_errors(num_res: int) -> AbstractContextManager[None]:
    return memory_errors(
        PredictionError,
        f"at {num_res} residues (padding included); --memory-budget with less than the device has, --max-msa with "
        "smaller numbers and --precision bf16 need less",
    )
