"""Plots show any measurement correctly and explain every mark."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.evaluation.memory_views import MemoryView
from memo_lightning.evaluation.plots import PAGE_WIDTH, plot_in_context_curve, plot_summary_attention


def record_of(rewards, n_episodes=10, spl=np.nan, *, says_success=True):
    """Return trials of 200 steps with equal episodes; the later half succeed if success is defined."""
    n_trials = len(rewards)
    ends = (np.arange(n_episodes) + 1) * (200.0 // max(n_episodes, 1))
    success = (np.arange(n_episodes) >= n_episodes / 2).astype(float) if says_success else np.full(n_episodes, np.nan)
    returns, tables = rewards.sum(1), (np.tile(row, (n_trials, 1)) for row in (success, success * spl, ends))
    return TrialRecord(rewards, np.full(n_trials, 200), np.tile(returns[:, None], (1, n_episodes)), *tables)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draw a plot and return the figure that was written."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (saved.append(figure), save(figure, path)))

    def drawn(plot, *arguments):
        path = tmp_path / "plot.png"
        before, title_and_more = arguments[:-2], arguments[-2:]
        plot(*before, path, *title_and_more)
        assert path.read_bytes().startswith(b"\x89PNG")
        return saved[-1]

    return drawn


def words(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_memory_has_its_colour_and_what_it_is_compared_with_is_grey(draw):
    rewards = np.random.default_rng(0).random((8, 20))
    records = {"first rollout": record_of(rewards), "end of training": record_of(3 * rewards)}
    figure = draw(plot_in_context_curve, records, "memo on a task", "#0072b2")
    assert figure.get_figwidth() <= PAGE_WIDTH
    assert words(figure) == ["first rollout", "end of training"]
    for axes in figure.axes:
        assert [to_hex(line.get_color()) for line in axes.lines] == ["#9a9a9a", "#0072b2"]
    _, returns, success = figure.axes
    assert returns.lines[1].get_xdata().tolist() == list(range(1, 11))
    np.testing.assert_allclose(returns.lines[1].get_ydata(), 3 * rewards.sum(1).mean())
    assert success.lines[1].get_xdata().tolist() == list(range(10, 200, 20))
    assert success.lines[1].get_ydata().tolist() == [0.0] * 5 + [1.0] * 5


def test_spl_is_told_from_success(draw):
    figure = draw(plot_in_context_curve, {"all": record_of(np.ones((4, 20)), spl=0.5)}, "title", "#0072b2")
    lines = {line.get_linestyle(): line.get_ydata().tolist() for line in figure.axes[-1].lines}
    assert lines == {"-": [0.0] * 5 + [1.0] * 5, "--": [0.0] * 5 + [0.5] * 5}
    legend = {
        text: line.get_linestyle() for text, line in zip(words(figure), figure.legends[0].get_lines(), strict=True)
    }
    assert legend == {"success": "-", "SPL (success by path length)": "--"}


@pytest.mark.parametrize(("n_episodes", "n_panels"), [(10, 3), (1, 1), (0, 1)])
def test_no_panel_is_empty(n_episodes, n_panels, draw):
    figure = draw(plot_in_context_curve, {"all": record_of(np.ones((4, 20)), n_episodes)}, "title", "#0072b2")
    assert len(figure.axes) == n_panels
    assert all(axes.lines for axes in figure.axes)


def test_there_is_a_panel_of_success_only_where_that_was_reported(draw):
    rewards = np.ones((4, 20))
    never, said = record_of(rewards, says_success=False), record_of(rewards)
    figure = draw(plot_in_context_curve, {"first rollout": never, "end of training": never}, "title", "#0072b2")
    assert [axes.get_ylabel() for axes in figure.axes] == ["reward per step", "return of the episode"]
    figure = draw(plot_in_context_curve, {"first rollout": never, "end of training": said}, "title", "#0072b2")
    (line,) = figure.axes[2].lines
    assert to_hex(line.get_color()) == "#0072b2"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("reward", [0.0, -1000.0, 1e9, 1e-9])
def test_constant_negative_and_huge_returns_are_drawn_where_they_are(reward, draw):
    figure = draw(plot_in_context_curve, {"all": record_of(np.full((4, 20), reward))}, "title", "#0072b2")
    low, high = figure.axes[0].get_ylim()
    assert low <= min(0, reward / 10)
    assert high >= max(0, reward / 10)
    assert high > low
    assert all(len(label.get_text()) <= 9 for label in figure.axes[0].get_yticklabels())


def test_a_single_trial_has_no_interval(draw):
    figure = draw(plot_in_context_curve, {"all": record_of(np.ones((1, 20)))}, "title", "#0072b2")
    assert "interval" not in figure.get_suptitle()


def test_every_mark_of_the_attention_is_explained_and_no_summary_is_shown_that_nothing_reads(draw):
    torch.manual_seed(0)
    view = MemoryView(torch.rand(2, 1, 20, 5), torch.rand(2, 1, 4, 5), torch.rand(1, 4, 2, 8))
    ends = torch.zeros(20, dtype=torch.bool)
    ends[[4, 9]] = True
    successes = ends.clone()
    successes[4] = False
    figure = draw(lambda *arguments: plot_summary_attention(view, ends, successes, *arguments), "title", "#0072b2")
    above, below, _ = figure.axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == [
        "attention of the summary",
        "uniform attention",
        "episode ends with success",
        "without",
    ]
    shown = below.images[0].get_array()
    assert shown.shape == (3, 3), "segments 2 to 4 read the summaries of segments 1 to 3"
    assert not shown.mask.all(0).any()
