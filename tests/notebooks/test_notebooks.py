"""Every notebook runs from top to bottom, on settings smaller than its own."""

from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What replaces the cell tagged as parameters.
SMALL = {
    "quick_start": "FRAMES = 25_600",
    "inside_the_memory": "FRAMES = 25_600\nTRIALS = 96",
    "compare_baselines": 'FRAMES = 25_600\nMEMORIES = ["none", "memoryless"]\nSEEDS = [0]',
    "analyse_a_study": "FRAMES = 25_600\nTRIALS = 1\nWORKERS = 1",
}


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert {line.split(" = ")[0] for line in SMALL[path.stem].splitlines()} == {
        line.split(" = ")[0] for line in parameters.source.splitlines()
    }
    parameters.source = SMALL[path.stem]
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(ROOT))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "it shows pictures"
    assert not any(cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"), (
        "outputs are not kept in the repository"
    )
