"""Notebooks: their claims match the numbers they show, and each runs from top to bottom, here at a small size."""

import re
from pathlib import Path

import pytest

jupyter_client = pytest.importorskip("jupyter_client", reason="needs the extra [notebooks]")
nbclient = pytest.importorskip("nbclient", reason="needs the extra [notebooks]")
nbformat = pytest.importorskip("nbformat", reason="needs the extra [notebooks]")

NOTEBOOKS = {path.stem: path for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")}
# Replacements for the cell tagged as parameters.
SMALL = {
    "quick_start": "FRAMES = 25_600",
    "inside_the_memory": "FRAMES = 25_600\nTRIALS = 64",
    "compare_baselines": 'FRAMES = 12_800\nMEMORIES = ["none", "memoryless"]\nSEEDS = [0]',
    "analyse_a_study": "FRAMES = 2_560\nTRIALS = 4\nWORKERS = 1",
}
N_IMAGES = {"quick_start": 2, "inside_the_memory": 2, "compare_baselines": 1, "analyse_a_study": 3}  # at least


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(outputs):
    """Return all text in the outputs."""
    shown = [output.get("data", {}) for output in outputs]
    tables = [data.get("text/markdown", data.get("text/plain", "")) for data in shown]
    return "\n".join([output.get("text", "") for output in outputs] + tables)


def numbers(pattern, text):
    """Return the numbers matched by the groups of a pattern."""
    found = re.search(pattern, text)
    assert found, pattern
    return [float(value) for value in found.groups()]


@pytest.fixture(params=sorted(SMALL))
def shown(request):
    """Return the name, outputs and text of a notebook as stored in the repository."""
    outputs = outputs_of(nbformat.read(NOTEBOOKS[request.param], as_version=4))
    return request.param, outputs, text_of(outputs)


def test_there_is_a_test_for_every_notebook():
    assert set(NOTEBOOKS) == set(SMALL) == set(N_IMAGES) == set(PROMISES)


def test_the_repository_has_the_outputs_of_every_notebook_without_a_warning(shown):
    name, outputs, text = shown
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= N_IMAGES[name]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not re.search(r"warning|deprecated", text, re.IGNORECASE)
    assert not re.search(r"/home/|/work/|/tmp/|site-packages|MLFLOW_", text), "nothing of the machine that made them"
    for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells:
        assert cell.cell_type != "code" or cell.execution_count, "every cell has been run"


def promise_of_quick_start(text):
    first, last = numbers(r"return per trial: ([\d.]+) at first, ([\d.]+) at last", text)
    assert last > 3 * first
    quarters = numbers(r"by quarter of the trial: ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", text)
    assert quarters[3] > 1.3 * quarters[0], "the agent learns within a trial"
    low, high = numbers(r"95 % interval ([\d.]+) to ([\d.]+)", text)
    assert low < sum(quarters) < high


def promise_of_inside_the_memory(text):
    (share,) = numbers(r"share of the last segment's attention that goes to summaries: ([\d.]+)", text)
    assert 0.2 < share < 1
    for what in ("key", "door"):
        pattern = rf"{what}: ([\d.]+) told right from all summaries, ([\d.]+) by chance, ([\d.]+) from the first"
        told, chance, from_first = numbers(pattern, text)
        assert told > chance + 0.15, "five times the standard error"
        assert told > from_first


def promise_of_compare_baselines(text):
    score = {name: numbers(rf"\| {name} \| (-?[\d.]+) \|", text)[0] for name in ("memo", "lstm", "memoryless")}
    assert min(score["memo"], score["lstm"]) > 0.9
    assert abs(score["memoryless"] - 0.5) < 0.1


def promise_of_analyse_a_study(text):
    best, worst = numbers(r"best (-?[\d.]+), worst (-?[\d.]+)", text)
    assert best > 0.9
    assert worst < 0.7


PROMISES = {
    "quick_start": promise_of_quick_start,
    "inside_the_memory": promise_of_inside_the_memory,
    "compare_baselines": promise_of_compare_baselines,
    "analyse_a_study": promise_of_analyse_a_study,
}


def test_what_a_notebook_promises_is_in_its_numbers(shown):
    name, _, text = shown
    PROMISES[name](text)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Share one kernel between all notebooks, which have the same imports; each starts with an empty namespace."""
    folder = tmp_path_factory.mktemp("working_folder")
    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder))
    yield manager, folder
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_notebook_runs_and_leaves_nothing_where_it_is_run(name, kernel):
    manager, folder = kernel
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert {line.split(" = ")[0] for line in SMALL[name].splitlines()} == {
        line.split(" = ")[0] for line in parameters.source.splitlines()
    }
    begin = f'%reset_selective -f "^[^_]"\n%matplotlib inline\nimport os\nos.chdir({str(folder)!r})'
    parameters.source = f"{begin}\n{SMALL[name]}"
    nbclient.NotebookClient(notebook, km=manager, timeout=300).execute(cwd=str(folder), cleanup_kc=False)
    outputs = outputs_of(notebook)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= N_IMAGES[name]
    assert not re.search(r"warning", text_of(outputs), re.IGNORECASE)
    assert not list(folder.iterdir())
