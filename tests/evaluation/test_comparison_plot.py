"""The plot of a comparison shows each memory in its colour, and intervals only where there are several seeds."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from memo_lightning.evaluation.colours import memory_colour
from memo_lightning.evaluation.comparison import Curve
from memo_lightning.evaluation.comparison_plot import plot_comparison
from memo_lightning.evaluation.plots import PAGE_WIDTH
from memo_lightning.evaluation.statistics import estimate_over_seeds


def group(name, values, environment="a"):
    """Return what is drawn of a group; each sequence of ``values`` is the curve of one seed."""
    values = np.array(values, float)
    curve = Curve(np.linspace(0, 200, values.shape[1]), estimate_over_seeds(values))
    score, seeds = estimate_over_seeds(values[:, -1]), list(range(len(values)))
    by_seconds = Curve(curve.x * 3, curve.y)
    return SimpleNamespace(
        name=name,
        environment=environment,
        seeds=seeds,
        score=score,
        learning=curve,
        learning_by_seconds=by_seconds,
        in_context=curve,
    )


@pytest.fixture
def draw(tmp_path, monkeypatch):
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (saved.append(figure), save(figure, path)))

    def drawn(*groups):
        plot_comparison(groups, tmp_path / "plot.png")
        return saved[-1]

    return drawn


def test_memories_keep_their_colours_whatever_they_are_compared_with(draw):
    memo, lstm, gru = (group(name, [[1, 2], [3, 4]]) for name in ("memo", "lstm", "gru"))
    for groups in ([memo, lstm], [gru, lstm, memo]):
        figure = draw(*groups)
        colours = [memory_colour(each.name) for each in groups]
        for axes in figure.axes[:3]:
            assert [to_hex(line.get_color()) for line in axes.lines] == colours
        legend = {text.get_text(): to_hex(line.get_color()) for text, line in zip(
            figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True)}  # fmt: skip
        assert legend == {f"{each.name} (2 seeds)": memory_colour(each.name) for each in groups}
    assert figure.get_figwidth() <= PAGE_WIDTH


def test_the_reward_within_a_trial_is_over_its_steps(draw):
    *_, in_context, _ = draw(group("memo", [[1, 2, 3]])).axes
    assert in_context.get_xlabel() == "step of the trial"
    assert in_context.lines[0].get_xdata().tolist() == [0, 100, 200]


def test_learning_is_drawn_over_frames_and_over_minutes(draw):
    by_frames, by_time, *_ = draw(group("memo", [[1, 2, 3]])).axes
    assert (by_frames.get_xlabel(), by_time.get_xlabel()) == ("frames", "minutes of training")
    assert by_frames.lines[0].get_xdata().tolist() == [0, 100, 200]
    assert by_time.lines[0].get_xdata().tolist() == [0, 5, 10]
    assert by_time.lines[0].get_ydata().tolist() == by_frames.lines[0].get_ydata().tolist() == [1, 2, 3]


def test_one_seed_has_no_interval_and_several_have_one(draw):
    figure = draw(group("memo", [[1, 2]]))
    assert figure.get_suptitle() == ""
    assert len(figure.axes[3].lines) == 1, "the score alone"
    figure = draw(group("memo", [[1, 2], [3, 4]]))
    assert figure.get_suptitle() == "bands: 95 % intervals over seeds"
    assert figure.axes[3].lines[0].get_xdata().tolist() == [2, 4]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, -1200.0, 1e8])
def test_constant_negative_and_huge_returns_are_drawn(value, draw):
    learning, *_, scores = draw(group("a memory of one's own, with a very long name", [[value, value]] * 2)).axes
    low, high = learning.get_ylim()
    assert low <= min(0, value)
    assert high >= max(0, value)
    assert scores.get_xlim()[0] <= value <= scores.get_xlim()[1]
