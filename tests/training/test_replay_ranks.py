"""Several processes learn from replays of their own, and end with the same weights."""

import pytest
import torch

from memo_lightning.policies.checkpoint import read_checkpoint
from started import finish, start
from tiny import TINY_OFF_POLICY

TINY = [*TINY_OFF_POLICY, "total_frames=1920", "collector.n_chunks=2", "run_dir=run", "logger=none"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
WEIGHTS = """
import lightning, torch

class Weights(lightning.Callback):
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
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.py").write_text(WEIGHTS)
    callback = "+callbacks.weights._target_=weights.Weights"
    output = train(tmp_path / "whole", *TINY, *TWO, callback)
    assert "replay: up to 20 trials for each of 2 processes" in output
    first, second = (torch.load(tmp_path / "whole" / f"weights{rank}.pt") for rank in (0, 1))
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []
    trials = [(tmp_path / "whole/run/replay" / f"rank{rank}").rglob("*.memmap") for rank in (0, 1)]
    contents = [[path.read_bytes() for path in sorted(files)] for files in trials]
    assert contents[0]
    assert contents[0] != contents[1], "each has trials of its own"

    train(tmp_path / "parts", *TINY, *TWO, callback, "total_frames=1280")
    train(tmp_path / "parts", "resume=run", "total_frames=1920")
    weights = [
        read_checkpoint(tmp_path / name / "run/checkpoints/last.ckpt")["state_dict"] for name in ("whole", "parts")
    ]
    assert [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])] == []
