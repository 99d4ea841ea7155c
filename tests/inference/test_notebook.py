"""The notebook runs from top to bottom, as a demo of the toy network, and its forms are forms."""

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"


def test_committed_without_outputs_and_with_titles():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert cell.source.startswith("# @title ")


def set_field(notebook, name: str, value: str) -> None:
    """Fills in a form's field, as its user would."""
    changed = 0
    for cell in notebook.cells:
        cell.source, number = re.subn(rf"^({name} = )[^#]*(  # @param)", rf"\g<1>{value}\g<2>", cell.source, flags=re.M)
        changed += number
    assert changed == 1, f"no form field {name}"


def test_runs_from_top_to_bottom(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    fields = {
        "demo": "True",
        "sequence": '"GAMKWDE:GAMKWDE"',
        "job_name": '"dimer"',
        "recycles": '"1"',
        "num_seeds": "2",
    }
    for name, value in fields.items():
        set_field(notebook, name, value)
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    for name, value in (("PYTHONPATH", paths), ("JAX_PLATFORMS", "cpu"), ("XDG_CACHE_HOME", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dimer", "dimer.zip"}
    assert {"report.html", "ranked_1.cif"} <= {path.name for path in (tmp_path / "out" / "dimer").iterdir()}
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 4
    assert any("3dmol" in output.get("data", {}).get("text/html", "").lower() for output in shown)
    texts = " ".join(output.get("data", {}).get("text/markdown", "") for output in shown)
    assert "FOR TRYING THE SOFTWARE ONLY" in texts and "Interface A–B" in texts
    assert any("pass 2 of at most 2" in output.get("data", {}).get("text/html", "") for output in shown)
