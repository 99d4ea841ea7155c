"""The report: all of it in one file, nothing in it that a header could have written, and alive in a browser."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tyro

from fastfold_jax.inference.citations import Served, bibtex, papers
from fastfold_jax.inference.config import InferenceConfig, SamplingOptions
from fastfold_jax.inference.coverage import Coverage
from fastfold_jax.inference.provenance import RANDOM_WARNING
from fastfold_jax.inference.ranking import Finished
from fastfold_jax.inference.relax import RelaxOptions
from fastfold_jax.inference.report import Page, report_html
from fastfold_jax.inference.reproduce import command_line
from fastfold_jax.inference.result import UsedTemplate
from fastfold_jax.search.config import SearchOptions

CONFIG = InferenceConfig(
    input=(Path("my file.fasta"),), out=Path("out"), sampling=SamplingOptions(num_seeds=2, max_msa="16:32")
)


def page(*predictions, job="a job", config=CONFIG) -> str:
    n = len(predictions[0].plddt)
    coverage = Coverage(rows=12, depth=np.arange(5 * n).reshape(5, n))
    ranked = [Finished.of(item, ("a.cif",)) for item in predictions]
    relaxed = {ranked[0].name: {"violations_before": {"residues": 7}, "violations_after": {"residues": 0}}}
    shown = {"shown": predictions, "relaxed": relaxed, "coverage": coverage, "config": config}
    return report_html(Page(job=job, ranked=ranked, **shown))


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def numbers(text: str, kind) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_what_the_page_holds(make_prediction):
    first, second = make_prediction("GAMKW", "DEW"), make_prediction("GAMKW", "DEW", seed=1)
    data = data_of(page(first, second))
    assert data["names"] == "GAMKWDEW" and data["numbers"] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert [(chain["id"], chain["start"], chain["length"]) for chain in data["chains"]] == [("A", 0, 5), ("B", 5, 3)]
    assert [row["name"] for row in data["ranking"]] == ["model_1_ptm_seed0", "model_1_ptm_seed1"]
    assert data["ranking"][0]["interfaces"][0]["chains"] == ["A", "B"]
    assert [row["violations"] for row in data["ranking"]] == [[7, 0], None]
    model = data["models"][0]
    errors = numbers(model["matrix"], np.uint8).reshape(8, 8) / 255 * data["matrixTop"]
    np.testing.assert_allclose(errors, first.pae, atol=0.07)
    assert numbers(model["counts"], np.uint8).tolist() == (first.atom_mask > 0.5).sum(axis=1).tolist()
    xyz = numbers(model["xyz"], "<i2").reshape(-1, 3) * model["scale"]
    given = first.atom_positions[first.atom_mask > 0.5]
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (xyz, given)]
    np.testing.assert_allclose(*distances, atol=0.05)  # moved as a whole, if at all
    assert "max-msa 16:32" in data["command"] and "'my file.fasta'" in data["command"]
    assert "10.1038/s41586-021-03819-2" in data["bibtex"]


def test_templates_are_told(make_prediction, tmp_path):
    used = UsedTemplate(name="1abc", chain="B", released="2001-02-03", identity=0.254, coverage=0.5)
    prediction = make_prediction("GAMKW")
    chain = dataclasses.replace(prediction.chains[0], templates=(used,))
    text = page(dataclasses.replace(prediction, chains=(chain,)))
    assert data_of(text)["ranking"][0]["templates"] == [{"of": "A", **used.to_json()}]
    dom = in_chromium(text, "", tmp_path)
    cells = "".join(f"<td.*?>{cell}</td>" for cell in ("A", "1abc", "B", "2001-02-03", "25 %", "50 %"))
    assert re.search(cells, dom) and '<section id="interfaces" hidden="">' in dom


def test_predictions_lie_over_the_best(make_prediction):
    first = make_prediction("GAMKWDE")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = dataclasses.replace(first, atom_positions=(first.atom_positions @ turn + 50).astype(np.float32))
    models = data_of(page(first, moved))["models"]
    one, other = (numbers(model["xyz"], "<i2") * model["scale"] for model in models)
    np.testing.assert_allclose(one, other, atol=0.02)


def test_large_matrices_are_averaged(make_prediction):
    n = 1100
    pae = np.broadcast_to(np.linspace(0, 31, n, dtype=np.float32), (n, n))
    data = data_of(page(make_prediction("G" * n, pae=pae)))
    matrix = numbers(data["models"][0]["matrix"], np.uint8).reshape(data["side"], data["side"])
    assert data["side"] == 512 and matrix[0, 0] < 2 and (np.diff(matrix[0].astype(int)) >= 0).all()


def test_networks_without_aligned_errors_show_contacts(make_prediction):
    prediction = make_prediction("GAMK", pae=None, ptm=None)
    data = data_of(page(prediction))
    assert data["matrixKind"] == "contact"
    matrix = numbers(data["models"][0]["matrix"], np.uint8).reshape(4, 4) / 255
    np.testing.assert_allclose(matrix, prediction.contact_probability, atol=0.003)


EVIL = "</script><script>document.title='evil'</script><!--<img src=x onerror=alert(1)> $data ${css}"


def test_nothing_from_outside_is_markup_or_loaded(make_prediction):
    prediction = make_prediction("GAMK")
    chain = dataclasses.replace(prediction.chains[0], description=EVIL)
    text = page(dataclasses.replace(prediction, chains=(chain,)), job=EVIL)
    assert text.count("<script") == 2 and "onerror" in text and "<img" not in text
    assert data_of(text)["job"] == EVIL
    assert not re.search(r"""(src|href)=["']?(http|//)|@import|url\(|import\(|fetch\(""", text)
    assert "default-src 'none'" in text


def test_random_parameters_warn_and_cite_nothing(make_prediction):
    prediction = make_prediction("GA")
    source = dataclasses.replace(prediction.provenance, parameters="random", warning=RANDOM_WARNING)
    data = data_of(page(dataclasses.replace(prediction, provenance=source)))
    assert "MEANS NOTHING" in data["warning"] and data["citations"] == [] and data["bibtex"] == ""


def test_the_command_is_the_configuration():
    config = InferenceConfig(
        input=(Path("a b.fasta"), Path("c.a3m")),
        out=Path("out"),
        model=("model_1", "model_2"),
        params="random",
        search=SearchOptions(databases=(Path("x"), Path("y")), msa_server_environmental=False),
        sampling=SamplingOptions(seed=3),
        relaxation=RelaxOptions(relax="best", relax_stiffness=5.0),
    )
    import shlex

    words = shlex.split(command_line(config))
    assert words[0] == "fastfold-infer"
    assert tyro.cli(InferenceConfig, args=words[1:]) == config


def test_citations_are_those_of_what_served():
    plain = papers(Served(multimer=False, complex=False), CONFIG)
    assert [paper.key for paper in plain] == ["Jumper2021", "Cheng2024"]
    config = dataclasses.replace(CONFIG, search=SearchOptions(msa="server"), relaxation=RelaxOptions(relax="all"))
    keys = [paper.key for paper in papers(Served(multimer=True, complex=True), config)]
    assert keys == ["Jumper2021", "Evans2021", "Cheng2024", "Mirdita2022", "Eastman2017", "Dunbrack2025"]
    text = bibtex(plain)
    assert text.count("@article{") == 2 and text.count("{") == text.count("}") and "and others" in text


def in_chromium(text: str, script: str, tmp_path: Path) -> str:
    """What headless Chromium makes of a page once the script has run in it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    (tmp_path / "report.html").write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader
        --virtual-time-budget=3000 --dump-dom"""
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/report.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert re.search(r'data-ready="(yes|no-webgl)"', done.stdout), done.stderr[-2000:]
    return done.stdout


CLICK = """
  const matrix = document.getElementById("matrix"), box = matrix.getBoundingClientRect();
  const cell = {clientX: box.left + box.width * 0.9, clientY: box.top + box.height * 0.2};
  matrix.dispatchEvent(new MouseEvent("click", cell));
"""


def test_in_a_browser(make_prediction, tmp_path):
    """The page fills, a click on a cell names its residues, one on a row shows that prediction."""
    text = page(make_prediction("GAMKWDEGAMKWDE", "GAMKWDE"), make_prediction("GAMKWDEGAMKWDE", "GAMKWDE", seed=1))
    click = CLICK + 'document.getElementById("ranking").querySelectorAll("tr")[2].click();'
    dom = in_chromium(text, click, tmp_path)
    assert re.search(r"aligned on A [A-Z]\d+, error of B [A-Z]\d+: \d+\.\d Å", dom)
    assert re.search(r'<tr class="pick shown"><td>1</td>', dom) and "Alignment: 12 sequences" in dom
    assert '<section id="cite"><h2>Cite</h2><div id="citations"><p>' in dom


def test_in_a_browser_with_nothing_to_cite(make_prediction, tmp_path):
    """No empty section of citations; once nothing is chosen, the hints stand again instead of the last choice."""
    prediction = make_prediction("GAMKWDE")
    source = dataclasses.replace(prediction.provenance, parameters="random", warning=RANDOM_WARNING)
    text = page(dataclasses.replace(prediction, provenance=source))
    dom = in_chromium(text, CLICK + 'document.getElementById("reset").click();', tmp_path)
    assert '<section id="cite" hidden="">' in dom
    assert 'id="residue">Drag to turn' in dom and 'id="cell">Aligned on the row' in dom
