"""Every notebook runs from top to bottom, on settings smaller than its own."""

import re
from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What replaces the cell tagged as parameters.
SMALL = {
    "quick_start": "FRAMES = 25_600",
    "inside_the_memory": "FRAMES = 25_600\nTRIALS = 256",
    "compare_baselines": 'FRAMES = 25_600\nMEMORIES = ["none", "memoryless"]\nSEEDS = [0]',
    "analyse_a_study": "FRAMES = 25_600\nTRIALS = 2\nWORKERS = 1",
}
PICTURES = {"quick_start": 2, "inside_the_memory": 2, "compare_baselines": 1, "analyse_a_study": 3}  # at least


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all notebooks, which import the same; each begins with an empty namespace."""
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    yield manager
    manager.shutdown_kernel(now=True)


def test_every_notebook_is_run():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, kernel):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "none in the repository"
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert {line.split(" = ")[0] for line in SMALL[path.stem].splitlines()} == {
        line.split(" = ")[0] for line in parameters.source.splitlines()
    }
    parameters.source = f'%reset_selective -f "^[^_]"\n%matplotlib inline\n{SMALL[path.stem]}'
    nbclient.NotebookClient(notebook, km=kernel, timeout=300).execute(cwd=str(ROOT), cleanup_kc=False)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    n_pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert n_pictures >= PICTURES[path.stem], "it shows pictures"
    if path.stem == "inside_the_memory":
        said = "".join(output.get("text", "") for output in outputs)
        told, chance = map(float, re.search(r"key: ([\d.]+) told right from all summaries, ([\d.]+) by", said).groups())
        assert told > chance + 0.05, "summaries hold where the key is; 0.03 is the standard error"
