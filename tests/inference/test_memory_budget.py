"""A second try for less after the device has run out of memory."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fastfold_jax.autochunk import BudgetError, fit
from fastfold_jax.config.execution import Execution
from fastfold_jax.inference import cli, compiled_pass
from fastfold_jax.inference.compiled_pass import Compiler, PredictionError, Program, predict
from fastfold_jax.inference.recycle import FeatureStream, Recycling
from fastfold_jax.model.alphafold import init_state

EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12345 bytes."


def exhausted_after(program, times):
    """The program on a device that runs out of memory in its first passes, and those that take its place too."""
    left = [times]

    def broken(program):
        def run(*arguments):
            if left[0]:
                left[0] -= 1
                raise jax.errors.JaxRuntimeError(EXHAUSTED)
            return program.run(*arguments)

        smaller = program.smaller and (lambda: broken(program.smaller()))
        return dataclasses.replace(program, run=run, smaller=smaller)

    return broken(program)


def test_out_of_memory_is_tried_once_more_for_less(monkeypatch, small_network, features_of, caplog):
    features = features_of("GAMKWDEGAMKWDEGAMKWDE")
    program = Compiler(Execution(precision="float32"), memory_budget=2**30).program(small_network, features)
    state, recycling = init_state(small_network, 0, zero_final=False), Recycling(num_recycles=1)
    _, shapes, _ = compiled_pass._request(small_network, features)
    asked, compile_pass = [], functools.cache(lambda budget: smaller(small_network, shapes, budget))
    smaller = functools.partial(Compiler._compile, Compiler(Execution(precision="float32")))

    def noted(self, config, features, memory_budget):
        asked.append(memory_budget)
        return compile_pass(memory_budget)

    def result(times):
        with FeatureStream(lambda index: features, recycling.num_passes) as stream:
            return predict(exhausted_after(program, times), state, stream, recycling, lambda records: None)

    monkeypatch.setattr(Compiler, "_compile", noted)
    want = result(0)
    assert asked == []
    got = result(1)
    assert "trying once more with less memory" in caplog.text
    assert asked == [int(compiled_pass._SMALLER * fit.peak_bytes(program.run))]
    assert len(got.passes) == len(want.passes) == 2
    np.testing.assert_allclose(got.outputs.atom_positions, want.outputs.atom_positions, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got.outputs.pae, want.outputs.pae, rtol=1e-3, atol=1e-3)
    with pytest.raises(PredictionError, match=r"out of memory at 21 residues.*--memory-budget.*--precision bf16"):
        result(2)
    assert len(asked) == 2  # not a third time


def test_where_less_will_not_do_the_advice_is_the_same():
    def smaller():
        raise BudgetError(10, 20)

    def run(*arguments):
        raise jax.errors.JaxRuntimeError(EXHAUSTED)

    program = Program(
        run=run,
        start=lambda guess: None,
        num_res=4,
        seconds=0.0,
        from_cache=False,
        place=lambda state: state,
        smaller=smaller,
    )
    with FeatureStream(lambda index: None, 1) as stream, pytest.raises(PredictionError, match="--memory-budget"):
        predict(program, None, stream, Recycling(num_recycles=0), lambda records: None)


def test_out_of_memory_twice_ends_the_command_with_advice(monkeypatch, small_network, tmp_path, capsys):
    (tmp_path / "one.fasta").write_text(">one\nGAMKWDEGAMKWDE\n")
    monkeypatch.setattr("fastfold_jax.inference.models.preset", lambda name: small_network)
    started = Compiler.program
    monkeypatch.setattr(Compiler, "program", lambda *arguments: exhausted_after(started(*arguments), times=2))
    flags = ["--params", "random", "--model", "model_1_ptm", "--recycles", "0", "--precision", "float32", "--no-plots"]
    code = cli.main([str(tmp_path / "one.fasta"), "--out", str(tmp_path / "out"), "--no-compile-cache", *flags])
    assert code == cli.USER_ERROR
    error = capsys.readouterr().err
    assert "--memory-budget" in error and "Traceback" not in error
