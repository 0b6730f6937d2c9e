"""Checkpoints are written between rollouts only."""

import lightning

from memo_lightning.callbacks.after_rollout import AfterRollout
from memo_lightning.config import compose_config
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.training.train import train
from tiny import FEW_UPDATES, TINY_TRAINING


class Stop(lightning.Callback):
    """Stops the run in the middle of its second rollout."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = pl_module.rollouts_done == 1 and pl_module.in_rollout


class Weights(AfterRollout):
    """Keeps the frames after each rollout."""

    def __init__(self):
        self.frames = []

    def after_rollout(self, trainer, learner):
        self.frames.append(learner.frames)


def test_a_run_that_stops_within_a_rollout_keeps_the_checkpoint_before_it(in_tmp_dir):
    after_rollouts = Weights()
    config = compose_config("train", [*TINY_TRAINING, *FEW_UPDATES, "collector.n_chunks=4", "total_frames=960",
                                      "logger=none", "run_dir=run"])  # fmt: skip
    train(config, callbacks=[after_rollouts, Stop()])
    checkpoint = read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")
    assert [checkpoint["frames"]] == after_rollouts.frames
