"""What a run makes of its INPUT: one bad record among good ones, its own output, names of chains."""

import json

import jax
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.job_sources import find_jobs
from fastfold_jax.errors import UserError
from fastfold_jax.inference import dry_run, job_run
from fastfold_jax.inference.config import (
    AnswerOptions,
    ExecutionOptions,
    InferenceConfig,
    JobOptions,
    RecyclingOptions,
    SamplingOptions,
)
from fastfold_jax.inference.engine import Parameters
from fastfold_jax.inference.layout import chain_layout
from fastfold_jax.inference.models import NetworkTable
from fastfold_jax.inference.run import run
from fastfold_jax.inference.sources import job_sources


def configuration(out, *sources, **changes) -> InferenceConfig:
    fields = {
        "input": sources,
        "out": out,
        "params": "random",
        "recycling": RecyclingOptions(recycles=0),
        "answer": AnswerOptions(plots=False, report=False),
        "execution": ExecutionOptions(precision="float32", no_compile_cache=True),
    }
    return InferenceConfig(**{**fields, **changes})


def test_a_bad_record_leaves_the_others_and_what_they_made_is_an_input(small_network, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    (tmp_path / "x.fasta").write_text(">good\nGAMK\n>bad\nGA1K\n")
    (tmp_path / "p.a3m").write_text(">q\nGAMK\n>h\nGA-K\n")
    out = tmp_path / "out"
    good, bad, aligned = run(configuration(out, tmp_path / "x.fasta", tmp_path / "p.a3m"), networks=[small_network])
    assert [good.status, bad.status, aligned.status] == ["done", "failed", "done"]
    fault = f"{tmp_path / 'x.fasta'}, line 4, column 3: '1' in 'bad' is no amino acid"
    assert str(bad.error).startswith(fault) and caplog.messages[0].startswith(f"bad: {fault}")
    rows = (out / "summary.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["done", "failed", "done"] and fault in rows[2].replace('"', "")

    for given in ([out / "p"], [out / "p" / "msas"]):
        (kept,) = find_jobs(given)
        assert kept.name == "p" and len(kept.read().chains[0].alignments[0].residues) == 2
    alone, kept = find_jobs([out])  # neither our summary nor our arrays are inputs
    assert (alone.name, kept.name) == ("good", "p") and "without alignments" in str(alone.error)


def test_the_only_job_s_fault_is_told_before_anything_else(tmp_path):
    (tmp_path / "x.fasta").write_text(">bad\nGA1K\n")
    for act in (run, dry_run.plan):
        with pytest.raises(UserError, match=r"line 2, column 3: '1' in 'bad'"):
            act(configuration(tmp_path / "out", tmp_path / "x.fasta", params=str(tmp_path / "nowhere")))
        with pytest.raises(UserError, match="no INPUT: accepted are"):
            act(configuration(tmp_path / "out"))


@pytest.mark.parametrize(
    ("ids", "options", "names"),
    [
        (["H", "L"], {}, "HL"),
        (["b", "a"], {}, "ba"),
        (["AA", "B"], {}, "AB"),  # no PDB file holds two letters
        (["H", "H"], {}, "AB"),
        (["H", "L"], {"stoichiometry": "2:1"}, "ABC"),
    ],
)
def test_chains_bear_the_names_that_alphafold_3_s_input_gives_them(tmp_path, ids, options, names):
    proteins = [
        {"protein": {"id": name, "sequence": letters}} for name, letters in zip(ids, ("GAMK", "WDE"), strict=True)
    ]
    (tmp_path / "x.json").write_text(json.dumps({"name": "x", "sequences": proteins}))
    (source,) = find_jobs([tmp_path / "x.json"], copies=JobOptions(**options).copies())
    job = source.read()
    network = preset("model_1_multimer_v3")
    assert "".join(chain.id for chain in chain_layout(assemble(job, network), job, 0)) == names


def test_headers_are_no_names_of_chains(tmp_path):
    (tmp_path / "x.fasta").write_text(">H\nGAMK:WDE\n")
    job = find_jobs([tmp_path / "x.fasta"])[0].read()
    assert [c.id for c in chain_layout(assemble(job, preset("model_1_multimer_v3")), job, 0)] == ["A", "B"]


@pytest.mark.parametrize(
    ("options", "seeds"),
    [({}, [3, 7]), ({"seed": 0}, [0]), ({"num_seeds": 1}, [0]), ({"seed": 4, "num_seeds": 2}, [4, 5])],
)
def test_seeds_of_the_input_are_used_unless_the_options_say_some(small_network, tmp_path, options, seeds):
    document = {"name": "job", "modelSeeds": [3, 7], "sequences": [{"protein": {"id": "A", "sequence": "GAMK"}}]}
    (tmp_path / "job.json").write_text(json.dumps(document))
    config = configuration(tmp_path / "out", tmp_path / "job.json", sampling=SamplingOptions(**options))
    context = job_run.Context(config=config, table=NetworkTable(config, [small_network]), parameters=Parameters())
    (source,) = job_sources(config)
    assert [task.seed for task in job_run.survey(context, source, tmp_path / "out").tasks] == seeds
