"""From input files to ranked structures with small networks and drawn parameters."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest

from fastfold_jax.config.presets import preset
from fastfold_jax.data.job import Job
from fastfold_jax.errors import UserError
from fastfold_jax.inference import engine
from fastfold_jax.inference.arrays import load_prediction
from fastfold_jax.inference.compiled_pass import PredictionError
from fastfold_jax.inference.config import (
    AnswerOptions,
    ExecutionOptions,
    InferenceConfig,
    JobOptions,
    RecyclingOptions,
    SamplingOptions,
)
from fastfold_jax.inference.engine import default_execution
from fastfold_jax.inference.models import choose, is_complex, locate
from fastfold_jax.inference.relax import RelaxOptions, RelaxResult
from fastfold_jax.inference.relax_openmm import RelaxFailed
from fastfold_jax.inference.relax_violations import Violations
from fastfold_jax.inference.relaxing import read_relaxed
from fastfold_jax.inference.run import run
from fastfold_jax.params.npz import ParamsError
from fastfold_jax.params.store import save
from fastfold_jax.search.config import SearchOptions

A3M = ">query\nGAMKWDE\n>one\nGAMRWDE\n>two\nG-MKwwWDD\n>three\nAAMKWDE\n"


def configuration(source: Path, out: Path, **changes) -> InferenceConfig:
    fields = {
        "input": (source,),
        "out": out,
        "params": "random",
        "jobs": JobOptions(complex=True),
        "answer": AnswerOptions(plots=False),
        "sampling": SamplingOptions(num_seeds=2),
        "recycling": RecyclingOptions(recycles=1),
        "execution": ExecutionOptions(precision="float32", no_compile_cache=True),
    }
    return InferenceConfig(**{**fields, **changes})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, small_network):
    """Output directory, results and log of one run: a protein of seven residues, one network, two seeds."""
    directory = tmp_path_factory.mktemp("run")
    source = directory / "seven.a3m"
    source.write_text(A3M)
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    package = logging.getLogger("fastfold_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        (outcome,) = run(configuration(source, directory / "out"), networks=[small_network])
    finally:
        package.removeHandler(handler)
        package.setLevel(logging.NOTSET)
    return directory / "out", outcome.ranked, messages


def test_all_files_are_there(finished_run):
    out, results, _ = finished_run
    expected = {"ranking.json", "timings.json", "manifest.json", "coverage.json", "report.html", "msas"}
    expected |= {f"ranked_{i}.{end}" for i in range(2) for end in ("pdb", "cif")}
    for seed in range(2):
        ends = (".pdb", ".cif", "_confidence.json", "_pae.json", "_scores.json", "_arrays.npz")
        expected |= {f"seven_model_1_ptm_seed{seed}{end}" for end in ends}
    assert {path.name for path in out.iterdir()} == expected
    assert len(results) == 2


def test_dropout_makes_other_predictions_and_the_files_say_so(finished_run, small_network, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished_run[0], out)
    without = {path.name: load_prediction(path) for path in sorted(out.glob("*_arrays.npz"))}
    config = configuration(finished_run[0].parent / "seven.a3m", out)
    run(config, networks=[dataclasses.replace(small_network, eval_dropout=True)])
    for name, before in without.items():
        after = load_prediction(out / name)
        assert after.provenance == dataclasses.replace(before.provenance, dropout=True)
        assert np.abs(after.atom_positions - before.atom_positions).max() > 0.1
    assert "dropout, " in (out / "ranked_0.pdb").read_text()
    asked = dataclasses.replace(config, sampling=SamplingOptions(dropout=True))
    assert [network.eval_dropout for x in (config, asked) for network in choose(x, multimer=False)] == [False, True]


def test_an_initial_guess_makes_other_predictions_and_the_files_say_so(finished_run, small_network, tmp_path):
    out, guess = tmp_path / "out", tmp_path / "guess.pdb"
    shutil.copytree(finished_run[0], out)
    shutil.copy(out / "ranked_1.pdb", guess)
    recycling = RecyclingOptions(recycles=1, initial_guess=guess)
    config = configuration(finished_run[0].parent / "seven.a3m", out, recycling=recycling)
    arrays = sorted(out.glob("*_arrays.npz"))
    runs = [{path.name: load_prediction(path) for path in arrays}]
    for _ in range(2):
        run(config, networks=[small_network])
        runs.append({path.name: load_prediction(path) for path in arrays})
        shutil.copy(finished_run[0] / "ranked_0.pdb", guess)  # another structure under the same name
    for name in runs[0]:
        without, first, second = (found[name] for found in runs)
        assert first.provenance == dataclasses.replace(without.provenance, initial_guess="guess.pdb")
        for one, other in ((without, first), (first, second)):
            assert np.abs(one.atom_positions - other.atom_positions).max() > 1e-3
    assert "initial guess guess.pdb, " in " ".join((out / "ranked_0.pdb").read_text().replace("REMARK   6", "").split())


def test_structure_is_the_protein(finished_run):
    out, results, _ = finished_run
    best = gemmi.read_structure(str(out / "ranked_0.pdb"))
    assert gemmi.one_letter_code([residue.name for residue in best[0]["A"]]) == "GAMKWDE"
    assert [residue.seqid.num for residue in best[0]["A"]] == [1, 2, 3, 4, 5, 6, 7]
    plddt = [residue[0].b_iso for residue in best[0]["A"]]
    scores = json.loads((out / results[0].files[2]).read_text())["confidenceScore"]
    assert plddt == pytest.approx(scores, abs=1e-4)
    assert np.mean(plddt) == pytest.approx(results[0].ranking_confidence, abs=0.01)
    pae = json.loads((out / results[0].files[3]).read_text())[0]["predicted_aligned_error"]
    assert np.shape(pae) == (7, 7)


def test_ranking_and_timings(finished_run):
    out, results, _ = finished_run
    ranking = json.loads((out / "ranking.json").read_text())
    assert ranking["order"] == [item.name for item in results]
    assert "MEANS NOTHING" in ranking["warning"]
    made = ranking["predictions"]["model_1_ptm_seed1"]["provenance"]
    assert (made["seed"], made["parameters"], made["rows"], made["precision"]) == (1, "random", "12:16", "float32")
    timings = json.loads((out / "timings.json").read_text())
    assert set(timings["predictions"]) == set(ranking["order"])
    first, second = timings["predictions"].values()
    assert len(first["passes"]) == len(second["passes"]) == 2
    assert first["compile"] > 0 and second["compile"] == 0 and second["compiled_before"]
    assert timings["total"] > timings["write"] > 0


def test_log_has_a_line_a_pass_and_a_banner(finished_run):
    _, _, messages = finished_run
    passes = [message for message in messages if "pass " in message]
    assert len(passes) == 4
    assert "model_1_ptm_seed0  pass 1/2" in passes[0] and "–" in passes[0]
    for part in ("pass 2/2", "pLDDT", "pTM", "change", "Å", " s"):
        assert part in passes[1]
    assert any("MEANS NOTHING" in message for message in messages)
    assert "ranked_0.pdb  pLDDT" in messages[-2] and "ranked_1.pdb" in messages[-1]


def test_same_seed_same_files(finished_run, small_network, tmp_path):
    out, _, _ = finished_run
    (tmp_path / "seven.a3m").write_text(A3M)
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", sampling=SamplingOptions(num_seeds=1))
    run(config, networks=[small_network])
    for name in ("seven_model_1_ptm_seed0.cif", "seven_model_1_ptm_seed0_pae.json"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()


def test_bundled_example(small_network, tmp_path):
    source = Path(__file__).resolve().parents[2] / "examples" / "crambin" / "crambin.fasta"
    config = configuration(source, tmp_path, sampling=SamplingOptions())
    (result,) = run(config, networks=[small_network])[0].ranked
    assert result.files[0] == "crambin_model_1_ptm_seed0.pdb"
    chain = gemmi.read_structure(str(tmp_path / "ranked_0.cif"))[0]["A"]
    sequence = "".join(source.read_text().splitlines()[1:])
    assert gemmi.one_letter_code([residue.name for residue in chain]) == sequence


def test_complex(small_multimer, tmp_path):
    (tmp_path / "two.fasta").write_text(">first\nGAMK\n>second\nWDE\n>third\nGAMK\n")
    config = configuration(tmp_path / "two.fasta", tmp_path / "out", sampling=SamplingOptions())
    (result,) = run(config, networks=[small_multimer])[0].ranked
    assert result.scale == "iptm+ptm"
    assert result.ranking_confidence == pytest.approx(0.8 * result.iptm + 0.2 * result.ptm, abs=1e-5)
    for suffix in ("pdb", "cif"):
        structure = gemmi.read_structure(str(tmp_path / "out" / f"ranked_0.{suffix}"))
        sequences = {chain.name: gemmi.one_letter_code([residue.name for residue in chain]) for chain in structure[0]}
        assert sequences == {"A": "GAMK", "B": "WDE", "C": "GAMK"}
        assert [residue.seqid.num for residue in structure[0]["B"]] == [1, 2, 3]


def test_monomer_model_on_a_complex_numbers_each_chain_from_one(small_network, tmp_path, caplog):
    (tmp_path / "two.fasta").write_text(">first\nGAMK\n>second\nWDE\n")
    config = configuration(tmp_path / "two.fasta", tmp_path / "out", sampling=SamplingOptions())
    run(config, networks=[small_network])
    assert "gaps of 200" in caplog.text
    structure = gemmi.read_structure(str(tmp_path / "out" / "ranked_0.pdb"))
    assert {c.name: [r.seqid.num for r in c] for c in structure[0]} == {"A": [1, 2, 3, 4], "B": [1, 2, 3]}


def test_ensemble(small_network, tmp_path):
    (tmp_path / "seven.a3m").write_text(A3M)
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", sampling=SamplingOptions())
    assert run(config, networks=[dataclasses.replace(small_network, num_ensemble=2)])[0].ranked[0].passes == 2


def test_parameters_from_a_file(finished_run, small_network, tmp_path):
    """Parameters that were drawn and saved give what drawing them gives, and no warning."""
    out, _, _ = finished_run
    (tmp_path / "seven.a3m").write_text(A3M)
    (drawn,) = locate([small_network], "random", seed=0)
    save(drawn.state(), small_network, tmp_path / "params_model_1_ptm.npz")
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", params=str(tmp_path), sampling=SamplingOptions())
    run(config, networks=[small_network])
    name = "seven_model_1_ptm_seed0"
    a, b = (gemmi.read_structure(str(directory / f"{name}.pdb")) for directory in (out, tmp_path / "out"))
    assert [s.atom.pos.tolist() for s in a[0].all()] == [s.atom.pos.tolist() for s in b[0].all()]
    assert "warning" not in json.loads((tmp_path / "out" / "ranking.json").read_text())
    text = (tmp_path / "out" / f"{name}.pdb").read_text()
    assert "params_model_1_ptm.npz" in text and "CC BY 4.0" in text and "MEANS NOTHING" not in text


def test_what_is_finished_survives_an_interrupt(small_network, tmp_path, monkeypatch):
    (tmp_path / "seven.a3m").write_text(A3M)
    predict = engine.predict
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(*args, **options)

    monkeypatch.setattr(engine, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(configuration(tmp_path / "seven.a3m", tmp_path / "out"), networks=[small_network])
    assert json.loads((tmp_path / "out" / "ranking.json").read_text())["order"] == ["model_1_ptm_seed0"]
    assert (tmp_path / "out" / "ranked_0.pdb").exists() and (tmp_path / "out" / "timings.json").exists()


def test_a_run_that_finishes_nothing_leaves_the_earlier_one_alone(finished_run, small_network, tmp_path, monkeypatch):
    out, _, _ = finished_run
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "seven.a3m").write_text(A3M)

    def failing(*args, **options):
        raise PredictionError("out of memory")

    monkeypatch.setattr(engine, "predict", failing)
    with pytest.raises(PredictionError, match="model_1_ptm_seed0: out of memory"):
        config = configuration(tmp_path / "seven.a3m", tmp_path / "out", jobs=JobOptions(redo=True))
        run(config, networks=[small_network])
    before, after = (
        {path.relative_to(where): path.read_bytes() for path in where.rglob("*") if path.is_file()}
        for where in (out, tmp_path / "out")
    )
    assert after == before


def job(*lengths: int, features=None) -> Job:
    from fastfold_jax.data.job import Chain

    return Job(
        name="job",
        chains=tuple(Chain(id=str(i), description="", sequence="G" * n) for i, n in enumerate(lengths)),
        features=features,
    )


def test_model_by_default():
    config = InferenceConfig(input=(Path("x"),), out=Path("y"))
    cases = [
        (job(5), "model_1_ptm"),
        (job(5, 5), "model_1_multimer_v3"),
        (job(features={"asym_id": np.array([1, 1, 2])}), "model_1_multimer_v3"),
        (job(features={"aatype": np.zeros(3)}), "model_1_ptm"),
    ]
    for given, expected in cases:
        assert [network.name for network in choose(config, multimer=is_complex(given))] == [expected]
    everything = dataclasses.replace(config, model=("all",))
    assert [network.name for network in choose(everything, multimer=False)] == [f"model_{i}_ptm" for i in range(1, 6)]
    assert choose(everything, multimer=True)[4].name == "model_5_multimer_v3"
    config = InferenceConfig(input=(Path("x"),), out=Path("y"), params="somewhere/params_model_3_ptm.npz")
    assert [network.name for network in choose(config, multimer=False)] == ["model_3_ptm"]


def test_max_msa_counts_templates_where_the_model_does():
    config = InferenceConfig(
        input=(Path("x"),), out=Path("y"), model=("model_1", "model_3"), sampling=SamplingOptions(max_msa="32:64")
    )
    first, third = choose(config, multimer=False)
    assert (first.num_clusters, third.num_clusters, first.num_extra_msa) == (28, 32, 64)
    with pytest.raises(UserError, match="at least 5"):
        choose(dataclasses.replace(config, sampling=SamplingOptions(max_msa="4:64")), multimer=False)


def test_models_of_two_kinds_do_not_mix():
    config = InferenceConfig(input=(Path("x"),), out=Path("y"), model=("model_1_ptm", "model_1_multimer_v3"))
    with pytest.raises(UserError, match="one kind at a time"):
        choose(config, multimer=False)
    repeated = dataclasses.replace(config, model=("model_1", "model_1"))
    assert len(choose(repeated, multimer=False)) == 1


def test_one_file_serves_one_model(tmp_path):
    (tmp_path / "params_model_1_ptm.npz").write_bytes(b"PK")
    file = str(tmp_path / "params_model_1_ptm.npz")
    with pytest.raises(ParamsError, match="give its directory"):
        locate([preset("model_1_ptm"), preset("model_2_ptm")], file, seed=0)
    with pytest.raises(ParamsError, match="holds the parameters of model_1_ptm"):
        locate([preset("model_2_ptm")], file, seed=0)


def test_precision_by_default_is_what_the_device_is_good_at():
    assert default_execution(ExecutionOptions()).precision == "float32"  # tests run on a CPU
    assert default_execution(ExecutionOptions(precision="bf16")).precision == "bf16"


def test_a_fasta_and_a_folder_of_databases_give_a_report(small_network, tmp_path):
    """Relatives are found by jackhmmer, built in, and what was found is in the report."""
    pytest.importorskip("pyhmmer")
    draw = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    sequence = draw.choice(letters, 60)
    others = [np.where(draw.random(60) < 0.2, draw.choice(letters, 60), sequence) for _ in range(20)]
    others += [draw.choice(letters, 60) for _ in range(50)]
    (tmp_path / "databases").mkdir()
    records = "".join(f">UniRef90_{i}\n{''.join(row)}\n" for i, row in enumerate(others))
    (tmp_path / "databases" / "uniref90.fasta").write_text(records)
    (tmp_path / "mine.fasta").write_text(f">mine\n{''.join(sequence)}\n")
    search = SearchOptions(databases=(tmp_path / "databases",), no_search_cache=True)
    config = configuration(
        tmp_path / "mine.fasta", tmp_path / "out", sampling=SamplingOptions(), search=search, jobs=JobOptions()
    )
    run(config, networks=[small_network])
    coverage = json.loads((tmp_path / "out" / "coverage.json").read_text())
    assert coverage["rows"] > 15
    assert f'"rows":{coverage["rows"]}' in (tmp_path / "out" / "report.html").read_text()
    # The alignment lies beside it, is an input itself, and is there again if it is lost.
    kept = tmp_path / "out" / "msas" / "mine" / "uniref90_hits.a3m"
    first = kept.read_bytes()
    again = dataclasses.replace(
        config, input=(tmp_path / "out" / "msas",), out=tmp_path / "again", search=SearchOptions()
    )
    run(again, networks=[small_network])
    assert json.loads((tmp_path / "again" / "coverage.json").read_text()) == coverage
    assert (tmp_path / "again" / "msas" / "mine" / "uniref90_hits.a3m").read_bytes() == first
    kept.unlink()
    (outcome,) = run(config, networks=[small_network])
    assert outcome.made == 0 and kept.read_bytes() == first
    # Another run into the same directory leaves none of it.
    (outcome,) = run(dataclasses.replace(config, search=SearchOptions()), networks=[small_network])
    assert outcome.made == 1 and not kept.exists()


@pytest.fixture
def relaxing(monkeypatch):
    """In place of OpenMM: what it would return, or an error, and how often it was asked."""
    asked = []

    def relax(structure, options):
        asked.append(structure.name)
        if options.relax_rounds == 9:
            raise UserError("no OpenMM here")
        if options.relax_rounds == 8:
            raise RelaxFailed("the energy cannot be minimised")
        after = structure.clone()
        for site in after[0].all():
            site.atom.pos.x += 1
        none = Violations(per_residue=np.zeros(7, bool), bonds=0.0, clashes=0.0, within=0.0, extreme_ca_ca=0.0)
        some = dataclasses.replace(none, per_residue=np.ones(7, bool), clashes=1.0)
        figures = {
            "initial_energy": 5.0,
            "final_energy": -5.0,
            "rmsd": 1.0,
            "rounds": 1,
            "steps": 100,
            "problem": "not converged after 100 steps" if options.relax_rounds == 7 else None,
            "program": "OpenMM 8",
            "platform": "CPU",
            "seconds": 1.0,
        }
        return RelaxResult(structure=after, before=some, after=none, **figures)

    monkeypatch.setattr("fastfold_jax.inference.relaxing.relax", relax)
    monkeypatch.setattr("fastfold_jax.inference.relax.check", lambda options: None)
    return asked


@pytest.mark.parametrize(("which", "number"), [("best", 1), ("all", 2)])
def test_relaxed_structures_are_ranked_and_kept(relaxing, small_network, tmp_path, which, number):
    (tmp_path / "seven.a3m").write_text(A3M)
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", relaxation=RelaxOptions(relax=which))
    (outcome,) = run(config, networks=[small_network])
    assert len(relaxing) == number
    best = outcome.ranked[0].name
    for suffix in ("pdb", "cif"):
        ranked = (tmp_path / "out" / f"ranked_0.{suffix}").read_bytes()
        assert ranked == (tmp_path / "out" / f"seven_{best}_relaxed.{suffix}").read_bytes()
        assert ranked != (tmp_path / "out" / f"seven_{best}.{suffix}").read_bytes()
    relaxation = json.loads((tmp_path / "out" / "ranking.json").read_text())["predictions"][best]["relaxation"]
    assert relaxation["violations_before"]["residues"] == 7 and relaxation["violations_after"]["residues"] == 0
    assert relaxation["energy_kcal_per_mol"] == [5.0, -5.0]
    assert "problem" not in relaxation and relaxation["steps"] == 100
    assert "Relaxed by OpenMM 8 in" in (tmp_path / "out" / "ranked_0.pdb").read_text()
    assert "Relaxed by OpenMM 8 in" in (tmp_path / "out" / "ranked_0.cif").read_text()
    page = (tmp_path / "out" / "report.html").read_bytes()
    run(config, networks=[small_network])
    (tmp_path / "out" / "ranked_0.pdb").unlink()
    run(config, networks=[small_network])
    assert len(relaxing) == number
    assert (tmp_path / "out" / "report.html").read_bytes() == page
    prediction = load_prediction(tmp_path / "out" / f"seven_{best}_arrays.npz")
    shown = read_relaxed(prediction, tmp_path / "out" / f"seven_{best}_relaxed.cif")
    np.testing.assert_array_equal(shown.atom_mask, prediction.atom_mask)
    moved = (shown.atom_positions - prediction.atom_positions)[prediction.atom_mask > 0]
    np.testing.assert_allclose(moved, np.broadcast_to([1, 0, 0], moved.shape), atol=0.002)


@pytest.mark.parametrize(("rounds", "problem"), [(7, "not converged"), (8, "cannot be minimised")])
def test_a_relaxation_that_does_not_succeed_is_no_error(relaxing, small_network, tmp_path, caplog, rounds, problem):
    (tmp_path / "seven.a3m").write_text(A3M)
    relaxation = RelaxOptions(relax="all", relax_rounds=rounds)
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", relaxation=relaxation)
    (outcome,) = run(config, networks=[small_network])
    assert outcome.error is None and problem in caplog.text
    ranking = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert all(problem in entry["relaxation"]["problem"] for entry in ranking["predictions"].values())
    best = outcome.ranked[0].name
    source = f"seven_{best}.pdb" if rounds == 8 else f"seven_{best}_relaxed.pdb"
    assert (tmp_path / "out" / "ranked_0.pdb").read_bytes() == (tmp_path / "out" / source).read_bytes()
    assert problem in (tmp_path / "out" / "report.html").read_text()
    run(config, networks=[small_network])
    assert len(relaxing) == 2  # and what failed is not tried again


def test_a_relaxation_that_fails_leaves_everything_else(relaxing, small_network, tmp_path):
    (tmp_path / "seven.a3m").write_text(A3M)
    relaxation = RelaxOptions(relax="best", relax_rounds=9)
    config = configuration(tmp_path / "seven.a3m", tmp_path / "out", relaxation=relaxation)
    for _ in range(2):  # and it is tried again
        with pytest.raises(UserError, match="no OpenMM here"):
            run(config, networks=[small_network])
    assert len(relaxing) == 2 and (tmp_path / "out" / "ranked_1.cif").exists()
    assert (tmp_path / "out" / "report.html").exists()
