"""The tutorial as a notebook: its commands are understood, it is kept without outputs, and it runs."""

import ast
import json
import os

import pytest

from tests import stand_ins
from tests.documents import ROOT, check_ours


NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_its_commands_are_understood_and_outputs_are_left_out():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells())
    calls = [
        node
        for cell in cells()
        for node in ast.walk(ast.parse("".join(cell["source"])))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "main"
    ]
    assert len(calls) >= 4
    for call in calls:
        [words] = call.args
        check_ours([word.value if isinstance(word, ast.Constant) else "some-path" for word in words.elts])


@pytest.mark.slow
def test_it_runs(tmp_path, fashion_mnist):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    stand_ins.lay_out(tmp_path, *fashion_mnist)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "docs")}})
    done.execute(env=environment)
    pictures = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
                if "image/png" in output.get("data", {})]  # fmt: skip
    assert len(pictures) == 6
    text = json.dumps(notebook)
    assert "times the noise" in text and "frechet_distance" in text
    assert (tmp_path / "outputs" / "notebook-search" / "scheduler_config.json").exists()
