"""The plot of a benchmark."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from memo_lightning.benchmarks.plot import plot_costs
from memo_lightning.evaluation.colours import memory_colour
from memo_lightning.evaluation.plots import PAGE_WIDTH


def case(kind, memory, length, **metrics):
    return {f"{kind}/{memory}/{length}": {"memory": memory, "context_length": length, **metrics}}


@pytest.fixture
def draw(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: saved.append(figure))

    def drawn(*cases):
        plot_costs({key: value for each in cases for key, value in each.items()}, tmp_path / "plot.png")
        return saved[-1] if saved else None

    return drawn


def test_there_is_a_panel_for_every_cost_that_was_measured(draw):
    update, failed = case("update", "memo", 512, update_seconds=1.0), case("update", "gru", 512, failed="killed")
    assert [axes.get_title() for axes in draw(update, failed).axes] == ["update, seconds"]
    figure = draw(update, case("acting", "memo", 512, step_seconds=0.1, state_bytes=300))
    titles = ["update, seconds", "step, median ms", "state, MB per environment"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert figure.get_figwidth() <= PAGE_WIDTH
    assert draw(failed) is figure, "nothing is drawn of nothing"


def test_one_length_is_bars_and_several_are_lines_in_the_memories_colours(draw):
    short = [case("update", memory, 512, update_seconds=n + 1.0) for n, memory in enumerate(("lstm", "memo"))]
    (axes,) = draw(*short).axes
    assert not axes.lines
    assert [bar.get_width() for bar in axes.patches] == [1.0, 2.0]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [memory_colour("lstm"), memory_colour("memo")]
    (axes,) = draw(*short, case("update", "memo", 1024, update_seconds=4.0)).axes
    lines = {to_hex(line.get_color()): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {memory_colour("lstm"): [[512, 1]], memory_colour("memo"): [[512, 2], [1024, 4]]}
