"""Prediction from Python."""

import os
from pathlib import Path

import gemmi
import pytest

import fastfold_jax
from fastfold_jax import Predictor
from fastfold_jax.backend.allocator import NAMES
from fastfold_jax.data.job_chains import Chain, Job
from fastfold_jax.errors import UserError
from fastfold_jax.inference.arrays import load_prediction
from fastfold_jax.inference.config import AnswerOptions, ExecutionOptions, RecyclingOptions, SamplingOptions

OPTIONS = {
    "recycling": RecyclingOptions(recycles=0),
    "sampling": SamplingOptions(num_seeds=2),
    "answer": AnswerOptions(plots=False),
    "execution": ExecutionOptions(no_compile_cache=True),
}


@pytest.fixture(scope="module")
def predictor(small_multimer):
    return Predictor("random", networks=[small_multimer], **OPTIONS)


@pytest.fixture(scope="module")
def result(predictor):
    return predictor.predict("gamk wde:GAMKWDE*", name="my dimer/..")


def test_a_sequence(result):
    assert [prediction.provenance.seed for prediction in result.predictions] in ([0, 1], [1, 0])
    scores = [prediction.ranking_confidence for prediction in result.predictions]
    assert scores == sorted(scores, reverse=True) and result.best is result.predictions[0]
    assert result.best.sequence == "GAMKWDE:GAMKWDE" and result.job.name == "my_dimer_.."[: len(result.job.name)]
    (interface,) = result.interfaces()
    assert interface.chains == ("A", "B") and result.coverage.rows == 1
    assert gemmi.read_pdb_string(result.pdb())[0]["B"][6].name == "GLU"
    block = gemmi.cif.read_string(result.mmcif(1)).sole_block()
    assert block.find_value("_ma_model_list.model_id") == "1"
    assert "<title>" in result.report()


def test_it_claims_the_devices_memory(small_multimer, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")
    Predictor("random", networks=[small_multimer], **OPTIONS)
    assert float(os.environ["XLA_CLIENT_MEM_FRACTION"]) >= 0.5


def test_it_is_shown_without_its_arrays(result):
    first, *lines = repr(result).splitlines()
    assert "my_dimer" in first and len(lines) == 2
    assert result.best.name in lines[0] and "14 residues" in lines[0] and "ipTM" in lines[0]


def test_what_it_writes(result, tmp_path):
    outcome = result.write(tmp_path / "out")
    assert outcome.ranked[0].name == result.best.name
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"ranked_0.pdb", "ranked_1.cif", "ranking.json", "report.html", "coverage.json", "manifest.json"} <= names
    (arrays,) = (name for name in outcome.ranked[0].files if name.endswith(".npz"))
    assert load_prediction(tmp_path / "out" / arrays).sequence == result.best.sequence


def test_a_file_and_a_job(predictor, tmp_path):
    path = tmp_path / "x.a3m"
    path.write_text(">q\nGAMKWDE\n>h\nGAMRWDE\n")
    assert predictor.predict(path).coverage.rows == 2
    job = Job(name="j", chains=tuple(Chain(id=i, description="", sequence="GAMKWDE") for i in "AB"))
    assert predictor.predict(job).job.name == "j"


def test_the_same_seed_gives_the_same_answer(predictor, result):
    again = predictor.predict("GAMKWDE:GAMKWDE", name="my dimer/..")
    assert [p.plddt.tolist() for p in again.predictions] == [p.plddt.tolist() for p in result.predictions]


@pytest.mark.parametrize(
    ("what", "message"),
    [("GAM1K", "letter 4 of the sequence: '1'"), ("", "no sequence"), ("x.fasta", "pathlib.Path"), ("A:", "empty")],
)
def test_bad_sequences(predictor, what, message):
    with pytest.raises(UserError, match=message):
        predictor.predict(what)


def test_bad_files(predictor, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        predictor.predict(tmp_path / "x.fasta")
    (tmp_path / "x.fasta").write_text(">a\nGA\n>b\nGA\n")
    with pytest.raises(UserError, match="holds 2 jobs"):
        predictor.predict(tmp_path / "x.fasta")


def test_bad_options():
    with pytest.raises(UserError, match="model_6"):
        Predictor("random", model="model_6")
    with pytest.raises(UserError, match="params"):
        Predictor(Path("nowhere"), model="model_1_ptm")
    with pytest.raises(AttributeError):
        _ = fastfold_jax.nothing
