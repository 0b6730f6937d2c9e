"""Several processes with memories that some passes use only in part."""

import json

import pytest

from started import finish, start
from tiny import TINY_TRAINING


@pytest.mark.slow
def test_partial_updates_that_end_before_a_segment_does_work_on_two_ranks(tmp_path):
    """The first chunks of a rollout write no summary, so the weights that write them get no gradient there."""
    sizes = ["collector.n_envs=4", "total_frames=640", "logger=none", "run_dir=run", "baseline=retrieval"]
    recipe = ["collector.n_chunks=8", "algorithm.n_minibatches=2", "trainer.devices=2", "trainer.strategy=ddp"]
    process = start(["memo_lightning.cli.train", *TINY_TRAINING, *sizes, *recipe], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["frames"] == 640
