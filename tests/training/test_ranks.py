"""Several processes with memories that some passes use only in part."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_partial_updates_that_end_before_a_segment_does_work_on_two_ranks(tmp_path):
    """The first chunks of a rollout write no summary, so the weights that write them get no gradient there."""
    command = [sys.executable, "-m", "memo_lightning.cli.train", "debug=smoke", "logger=none", "run_dir=run"]
    sizes = ["env.trial_length=40", "env.episode_length=10", "collector.n_envs=4", "total_frames=640"]
    model = ["model.d_model=16", "model.d_ff=32", "model.segment_length=10", "baseline=retrieval"]
    recipe = ["collector.n_chunks=8", "algorithm.n_minibatches=2", "trainer.devices=2", "trainer.strategy=ddp"]
    result = subprocess.run(
        [*command, *sizes, *model, *recipe],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["frames"] == 640
