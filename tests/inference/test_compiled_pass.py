"""The loop over passes with a made-up network, and the real one compiled once a shape."""

import collections
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fastfold_jax.autochunk import cache
from fastfold_jax.backend.compile_cache import use_compile_cache
from fastfold_jax.config.execution import Execution
from fastfold_jax.config.presets import preset
from fastfold_jax.inference.compiled_pass import Compiler, PredictionError, Program, _in_turn, predict, structural
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.model.alphafold import Outputs, init_state, make_apply
from fastfold_jax.model.recycling import init_prev
from parallel import make_mesh


def made_up(run) -> Program:
    return Program(
        run=run,
        start=lambda guess: SimpleNamespace(number=0),
        num_res=4,
        seconds=0.0,
        from_cache=False,
        place=lambda state: state,
        smaller=None,
    )


def outputs(number: float, change: float) -> Outputs:
    fields = {field.name: None for field in dataclasses.fields(Outputs)}
    numbers = {"mean_plddt": np.float32(number), "change": np.float32(change), "plddt": np.full(4, number)}
    return Outputs(**{**fields, **numbers})


def counting(changes):
    """A network whose pLDDT is the number of the pass, and that checks what it is given."""

    def run(state, features, prev, key):
        assert state == "parameters" and key is None
        assert features == f"features {prev.number}"
        return outputs(prev.number, changes[prev.number]), SimpleNamespace(number=prev.number + 1)

    return run


def stream(num_passes: int) -> FeatureStream:
    return FeatureStream(lambda index: f"features {index}", num_passes)


def test_passes_follow_each_other():
    seen = []
    recycling = Recycling(num_recycles=3)
    with stream(recycling.num_passes) as features:
        result = predict(
            made_up(counting([1.0, 0.2, 0.1, 0.0])), "parameters", features, recycling, lambda x: seen.append(len(x))
        )
    assert seen == [1, 2, 3, 4]
    assert [record.plddt for record in result.passes] == [0, 1, 2, 3]
    assert result.passes[0].change == np.inf  # there is no pass before the first
    assert [record.change for record in result.passes[1:]] == pytest.approx([0.2, 0.1, 0.0])
    assert result.passes[0].ptm is None
    np.testing.assert_array_equal(result.outputs.plddt, np.full(4, 3))


@pytest.mark.parametrize(("rule", "passes"), [("deepmind", 3), ("colabfold", 2)])
def test_tolerance_stops_early(rule, passes):
    recycling = Recycling(num_recycles=3, tolerance=0.5, rule=rule)
    with stream(4) as features:
        result = predict(made_up(counting([1.0, 0.2, 9.0, 9.0])), "parameters", features, recycling, lambda x: None)
    assert len(result.passes) == passes


@pytest.mark.parametrize("bad", [outputs(np.nan, 0.0), outputs(50.0, np.nan), outputs(np.inf, 0.0)])
def test_no_numbers_is_an_error(bad):
    with stream(4) as features, pytest.raises(PredictionError, match="pass 1 gave numbers that are not finite"):
        predict(made_up(lambda *_: (bad, None)), "parameters", features, Recycling(num_recycles=3), lambda x: None)


def test_out_of_memory_says_what_helps():
    def run(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes")

    with stream(4) as features, pytest.raises(PredictionError, match=r"4 residues.*--max-msa"):
        predict(made_up(run), "parameters", features, Recycling(num_recycles=3), lambda x: None)


def test_other_failures_stay_what_they_are():
    def run(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a defect")

    with stream(4) as features, pytest.raises(jax.errors.JaxRuntimeError, match="a defect"):
        predict(made_up(run), "parameters", features, Recycling(num_recycles=3), lambda x: None)


def test_dropout_is_drawn_anew_each_pass_by_the_seed():
    seen = []

    def run(state, features, prev, key):
        seen.append(np.asarray(jax.random.key_data(key)).tolist())
        return outputs(50.0, 1.0), prev

    for seed in (1, 1, 2):
        with stream(3) as features:
            predict(made_up(run), None, features, Recycling(num_recycles=2), lambda x: None, key=jax.random.key(seed))
    assert seen[:3] == seen[3:6]
    assert len(set(map(str, seen))) == 6


def test_one_program_serves_networks_that_differ_in_sampling():
    names = [
        ["model_3", "model_4", "model_5"],
        ["model_1_ptm", "model_2_ptm"],
        ["model_1_multimer_v3", "model_5_multimer"],
    ]
    for alike in names:
        assert len({structural(preset(name)) for name in alike}) == 1
    assert len({structural(preset(alike[0])) for alike in names}) == 3
    assert structural(preset("model_1", evoformer_blocks=2)) != structural(preset("model_1"))
    assert structural(preset("model_1", num_ensemble=2)) != structural(preset("model_1"))


def test_compiled_once_a_shape_and_network(small_network, features_of):
    use_compile_cache(None)
    compiler = Compiler(Execution(precision="float32"))
    short, again, long = features_of("GAMK"), features_of("WWWW"), features_of("GAMKG")
    first = compiler.program(small_network, short)
    assert not first.from_cache
    renamed = dataclasses.replace(small_network, name="other", num_recycles=9)
    for same in (compiler.program(small_network, again), compiler.program(renamed, short)):
        assert same.run is first.run and same.seconds == 0 and same.from_cache
    other = compiler.program(small_network, long)
    assert other.run is not first.run and (first.num_res, other.num_res) == (4, 5)
    assert first.seconds > 0 and not other.from_cache


@pytest.mark.parametrize("devices", [1, 2])
def test_with_dropout_a_pass_is_the_network_with_dropout(small_network, features_of, devices):
    use_compile_cache(None)
    network, features, execution = (
        dataclasses.replace(small_network, eval_dropout=True),
        features_of("GAMK"),
        Execution(precision="float32"),
    )
    state = init_state(network, 0, zero_final=False)
    program = Compiler(execution, make_mesh(devices=jax.devices()[:devices])).program(network, features)

    def positions(seed: int) -> np.ndarray:
        with FeatureStream(lambda index: features, 1) as once:
            result = predict(program, state, once, Recycling(num_recycles=0), lambda x: None, key=jax.random.key(seed))
        return result.outputs.atom_positions

    apply = jax.jit(make_apply(network, execution))
    prev = init_prev(len(features.aatype), network, execution)
    expected, _ = apply(state, features, prev, jax.random.fold_in(jax.random.key(3), 0))
    without, _ = apply(state, features, prev)
    np.testing.assert_allclose(positions(3), expected.atom_positions, rtol=1e-4, atol=1e-3)
    for other in (positions(4), without.atom_positions):
        assert np.abs(other - expected.atom_positions).max() > 0.1


@pytest.mark.parametrize("devices", [1, 2])
def test_a_guess_is_what_the_first_pass_takes_for_the_structure_before(small_network, features_of, devices):
    use_compile_cache(None)
    features, execution = features_of("GAMK"), Execution(precision="float32")
    state = init_state(small_network, 0, zero_final=False)
    guess = np.random.default_rng(0).normal(size=(3, 37, 3)).astype(np.float32) * 5  # the fourth is padding
    program = Compiler(execution, make_mesh(devices=jax.devices()[:devices])).program(small_network, features)
    with FeatureStream(lambda index: features, 2) as twice:
        result = predict(program, state, twice, Recycling(num_recycles=1), lambda x: None, initial_guess=guess)

    apply = jax.jit(make_apply(small_network, execution))
    start = init_prev(len(features.aatype), small_network, execution)
    without, _ = apply(state, features, start)
    first, prev = apply(state, features, dataclasses.replace(start, pos=start.pos.at[:3].set(guess)))
    second, _ = apply(state, features, prev)
    np.testing.assert_allclose(result.outputs.atom_positions, second.atom_positions, rtol=1e-4, atol=1e-3)
    assert np.abs(first.atom_positions - without.atom_positions).max() > 1e-2


def test_threads_for_several_devices_make_a_program_one_after_the_other(
    monkeypatch, small_network, features_of, tmp_path
):
    """So that those behind the first find its plan and, on GPUs, its program where both are kept."""
    use_compile_cache(tmp_path)
    features, busy, most = features_of("GAMKW"), collections.Counter(), collections.Counter()

    def watched(name, function):
        def call(*args):
            busy[name] += 1
            most[name] = max(most[name], busy[name])
            time.sleep(0.05)
            try:
                return function(*args)
            finally:
                busy[name] -= 1

        return call

    monkeypatch.setattr(Compiler, "_traced", watched("traced", Compiler._traced))
    monkeypatch.setattr(jax.stages.Lowered, "compile", watched("compiled", jax.stages.Lowered.compile))
    compilers = [Compiler(Execution(precision="float32"), make_mesh(devices=[device])) for device in jax.devices()[:2]]
    plans = []
    monkeypatch.setattr(cache, "save", lambda *args, save=cache.save: plans.append(save(*args)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda compiler: compiler.program(small_network, features), compilers)
    assert most == {"traced": 1, "compiled": 1} and len(plans) == 1
    assert first.run is not second.run


@pytest.mark.parametrize(
    ("step", "kept", "waits"), [("same", True, True), ("other", True, False), ("same", False, False)]
)
def test_only_what_is_the_same_and_will_be_kept_is_waited_for(tmp_path, step, kept, waits):
    use_compile_cache(tmp_path if kept else None)
    done = threading.Event()

    def work():
        with _in_turn("a program", step):
            done.set()

    thread = threading.Thread(target=work)
    with _in_turn("a program", "same"):
        thread.start()
        assert done.wait(0.2 if waits else 30) is not waits
    thread.join()
    assert done.is_set()
