"""The plot of a benchmark."""

from matplotlib.image import imread

from memo_lightning.benchmarks.plot import plot_costs


def test_there_is_a_panel_for_every_cost_that_was_measured(tmp_path):
    update = {"memory": "memo", "context_length": 512, "update_seconds": 1.0}
    acting = {"memory": "memo", "context_length": 512, "step_seconds": 0.1, "state_bytes": 300}
    failed = {"memory": "gru", "context_length": 512, "failed": "killed"}
    plot_costs({"update/memo/512": update, "update/gru/512": failed}, tmp_path / "one.png")
    plot_costs({"update/memo/512": update, "acting/memo/512": acting}, tmp_path / "three.png")
    (height, width, _), three_shape = (imread(tmp_path / name).shape for name in ("one.png", "three.png"))
    assert three_shape[:2] == (height, 3 * width)
