"""Plots of claims show the numbers that were kept."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from memo_lightning.evaluation.statistics import interquartile_mean
from memo_lightning.reproduction.plots import panels_of
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import Cell, Run


def test_reward_per_step_is_that_of_each_seed_however_long_its_trials_were(tmp_path):
    """With one reward in every step, it is one everywhere, whatever the lengths of the trials."""
    results, runs = Results(tmp_path), []
    for seed, length in enumerate((40.0, 80.0, 60.0)):
        ends = (np.arange(20) + 1) * length / 20
        curve = {"steps": ends.tolist(), "reward": [length / 20] * 20}
        runs.append(Run(f"run{seed}", (), seed, {}, "memo", "somewhere", 1.0))
        results.keep_run(runs[-1], {"settings": {}, "evaluations": {"default": {"in_context_curve": curve}}})
    ((_, draw),) = panels_of("return_by_step", [Cell("task", "memo", tuple(runs), {"default": ()})], results)
    axes = Figure().subplots()
    draw(axes, {"memo": "black"})
    steps, rewards = axes.lines[0].get_data()
    assert rewards == pytest.approx(np.full(20, interquartile_mean(np.ones(3))))
    assert steps == pytest.approx((np.arange(20) + 0.5) * 60 / 20), "the middles of the parts of a trial, on average"
