"""Order of the predictions, and the files that publish it."""

import dataclasses
import json

import pytest

from fastfold_jax.errors import UserError
from fastfold_jax.inference.ranking import Finished, rank, write_ranking
from fastfold_jax.inference.result import UsedTemplate
from fastfold_jax.inference.writers import write_prediction


def finished(make_prediction, directory, seed: int, score: float, **changes) -> Finished:
    prediction = make_prediction("GAW", seed=seed, ranking_confidence=score, **changes)
    return Finished.of(prediction, write_prediction(prediction, directory, "job"))


def test_best_first_and_copies(make_prediction, tmp_path):
    scores = [50.0, 90.0, 70.0]
    ranked = rank([finished(make_prediction, tmp_path, seed, score) for seed, score in enumerate(scores)])
    assert [item.ranking_confidence for item in ranked] == [90.0, 70.0, 50.0]
    files = write_ranking(ranked, tmp_path, {})
    content = json.loads((tmp_path / "ranking.json").read_text())
    names = ["model_1_ptm_seed1", "model_1_ptm_seed2", "model_1_ptm_seed0"]
    assert content["order"] == names
    assert content["plddts"] == dict(zip(names, [90.0, 70.0, 50.0], strict=True))
    assert "warning" not in content
    for place, name in enumerate(names):
        assert content["predictions"][name]["rank"] == place
        for suffix in (".pdb", ".cif"):
            copy = (tmp_path / f"ranked_{place}{suffix}").read_text()
            assert copy == (tmp_path / f"job_{name}{suffix}").read_text()
            assert f"ranked_{place}{suffix}" in files


def test_a_relaxed_structure_takes_the_place_of_the_predicted_one(make_prediction, tmp_path):
    ranked = [finished(make_prediction, tmp_path, 0, 60.0)]
    for suffix in (".pdb", ".cif"):
        (tmp_path / f"relaxed{suffix}").write_text("relaxed")
    figures = {"rounds": 1}
    write_ranking(ranked, tmp_path, {ranked[0].name: (["relaxed.pdb", "relaxed.cif"], figures)})
    assert (tmp_path / "ranked_0.pdb").read_text() == "relaxed"
    content = json.loads((tmp_path / "ranking.json").read_text())
    assert content["predictions"][ranked[0].name]["relaxation"] == figures


def test_a_summary_survives_json(make_prediction, tmp_path):
    item = Finished.of(make_prediction("GAW", "KDE"), ["a.pdb"])
    assert item.interfaces and Finished.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_templates_are_listed_by_chain(make_prediction, tmp_path):
    prediction = make_prediction("GAW", "KDE", "MK")
    used = UsedTemplate(name="1abc", chain="B", released="2001-02-03", identity=0.25, coverage=0.5)
    unknown = UsedTemplate(name=None, chain=None, released=None, identity=1.0, coverage=1.0)
    first, second, third = prediction.chains
    chains = (
        dataclasses.replace(first, templates=(used, unknown)),
        second,
        dataclasses.replace(third, templates=(unknown,)),
    )
    prediction = dataclasses.replace(prediction, chains=chains)
    item = Finished.of(prediction, write_prediction(prediction, tmp_path, "job"))
    write_ranking([item], tmp_path, {})
    nameless = {"identity": 1.0, "coverage": 1.0}
    named = {"name": "1abc", "chain": "B", "released": "2001-02-03", "identity": 0.25, "coverage": 0.5}
    content = json.loads((tmp_path / "ranking.json").read_text())
    assert content["predictions"][item.name]["templates"] == {"A": [named, nameless], "C": [nameless]}


def test_ties_keep_their_order(make_prediction, tmp_path):
    results = [finished(make_prediction, tmp_path, seed, 60.0) for seed in (3, 1, 2)]
    assert [item.name[-1] for item in rank(results)] == ["3", "1", "2"]


def test_scales_do_not_mix(make_prediction, tmp_path):
    one = finished(make_prediction, tmp_path, 0, 60.0)
    with pytest.raises(UserError, match="different scales"):
        rank([one, dataclasses.replace(one, scale="iptm+ptm")])
