"""Order of the predictions, and the files that publish it."""

import dataclasses
import json

import pytest

from fastfold_jax.errors import UserError
from fastfold_jax.inference.ranking import Finished, publish, rank
from fastfold_jax.inference.writers import write_prediction


def finished(make_prediction, directory, seed: int, score: float, **changes) -> Finished:
    prediction = make_prediction("GAW", seed=seed, ranking_confidence=score, **changes)
    return Finished.of(prediction, write_prediction(prediction, directory, "job"))


def test_best_first_and_copies(make_prediction, tmp_path):
    scores = [50.0, 90.0, 70.0]
    results = [finished(make_prediction, tmp_path, seed, score) for seed, score in enumerate(scores)]
    assert [item.ranking_confidence for item in publish(results, tmp_path)] == [90.0, 70.0, 50.0]
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


def test_ties_keep_their_order(make_prediction, tmp_path):
    results = [finished(make_prediction, tmp_path, seed, 60.0) for seed in (3, 1, 2)]
    assert [item.name[-1] for item in rank(results)] == ["3", "1", "2"]


def test_scales_do_not_mix(make_prediction, tmp_path):
    one = finished(make_prediction, tmp_path, 0, 60.0)
    with pytest.raises(UserError, match="different scales"):
        rank([one, dataclasses.replace(one, scale="iptm+ptm")])


def test_files_of_an_earlier_run_do_not_linger(make_prediction, tmp_path):
    publish([finished(make_prediction, tmp_path, seed, 60.0) for seed in range(3)], tmp_path)
    (tmp_path / "ranked_of_mine.txt").write_text("not ours")
    publish([finished(make_prediction, tmp_path, 0, 60.0)], tmp_path)
    assert sorted(p.name for p in tmp_path.glob("ranked_*")) == ["ranked_0.cif", "ranked_0.pdb", "ranked_of_mine.txt"]


@pytest.mark.parametrize("text", ["", "[]", '{"predictions": {"a": {"ranked_files": ["../x", "/etc/x", "other"]}}}'])
def test_foreign_ranking_file_removes_nothing(make_prediction, tmp_path, text):
    out = tmp_path / "out"
    out.mkdir()
    for path in (tmp_path / "x", out / "other"):
        path.write_text("keep")
    (out / "ranking.json").write_text(text)
    publish([finished(make_prediction, out, 0, 60.0)], out)
    assert (tmp_path / "x").exists() and (out / "other").exists()


def test_nothing_finished(tmp_path):
    assert publish([], tmp_path) == []
    assert json.loads((tmp_path / "ranking.json").read_text()) == {"order": [], "predictions": {}}
