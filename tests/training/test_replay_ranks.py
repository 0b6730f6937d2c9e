"""Several processes learn from separate replays and end with the same weights."""

import pytest
import torch

from memo_lightning.policies.checkpoint import read_checkpoint
from started import finish, start
from tiny import TINY_OFF_POLICY

TINY = [*TINY_OFF_POLICY, "total_frames=1920", "collector.n_chunks=2", "run_dir=run", "logger=none"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
# Every process copies its part of the run after two of three rollouts and saves its final weights.
WITNESS = """
import lightning, os, shutil, torch

class Witness(lightning.Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.rollouts_done == 2 and not pl_module.in_rollout:
            own = os.path.join("replay", f"rank{trainer.global_rank}")
            shutil.copytree(os.path.join("run", own), os.path.join("copy", own))
            if trainer.is_global_zero:
                shutil.copytree("run", "copy", ignore=shutil.ignore_patterns("replay"), dirs_exist_ok=True)

    def on_train_end(self, trainer, pl_module):
        torch.save(dict(pl_module.state_dict()), f"weights{trainer.global_rank}.pt")
"""


def train(directory, *overrides):
    process = start(["memo_lightning.cli.main", "train", *overrides], directory)
    output = finish(process, timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_and_go_on_bit_for_bit(tmp_path):
    (tmp_path / "witness.py").write_text(WITNESS)
    output = train(tmp_path, *TINY, *TWO, "+callbacks.witness._target_=witness.Witness")
    assert "replay: up to 20 trials for each of 2 processes" in output
    first, second = (torch.load(tmp_path / f"weights{rank}.pt") for rank in (0, 1))
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []
    trials = [(tmp_path / "run/replay" / f"rank{rank}").rglob("*.memmap") for rank in (0, 1)]
    contents = [[path.read_bytes() for path in sorted(files)] for files in trials]
    assert contents[0]
    assert contents[0] != contents[1], "each has trials of its own"

    assert read_checkpoint(tmp_path / "copy/checkpoints/last.ckpt")["frames"] == 1280
    train(tmp_path, "resume=copy")
    one, other = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("run", "copy"))
    assert one["frames"] == other["frames"] == 1920
    assert [
        name for name, value in one["state_dict"].items() if not torch.equal(value, other["state_dict"][name])
    ] == []
