"""Two processes train as one, whichever launcher starts them, and always end together."""

import json
import signal
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

import memo_lightning
from memo_lightning.errors import PREEMPTED
from memo_lightning.policies.checkpoint import read_checkpoint
from memo_lightning.training.launchers import cluster_environment, launcher_overrides
from started import finish, read_until, start
from tiny import TINY_TRAINING, without_times

TRAIN = str(Path(memo_lightning.__file__).parent / "cli" / "train.py")
TINY = [
    *TINY_TRAINING,
    "total_frames=1920",
    "collector.n_envs=4",
    "collector.n_chunks=5",  # the first ends before a segment, so some weights get no gradient
    "algorithm.n_minibatches=2",
    "model.layer_drop=0.5",  # waiting for the gradient of a skipped layer would hang
    "run_dir=run",
    "logger=none",
]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
# The second process's environment breaks in the second rollout. Before that, its policy seems to change far more than
# that of the first, which on its own would make it stop an update earlier.
BREAKING = """
import os
import lightning
from memo_lightning.envs import DarkKeyToDoor

class Breaking(DarkKeyToDoor):
    steps = 0

    def _advance(self, action):
        self.steps += 1
        if self.steps == 60 and os.environ.get("LOCAL_RANK") == "1":
            raise RuntimeError("the simulator has lost its marbles")
        return super()._advance(action)

class Diverging(lightning.Callback):
    def on_train_start(self, trainer, pl_module):
        loss = pl_module.algorithm.loss

        def diverging(policy, minibatch):
            value, metrics = loss(policy, minibatch)
            return value, {**metrics, "kl": metrics["kl"] + trainer.global_rank}

        pl_module.algorithm.loss = diverging

    def on_train_batch_end(self, trainer, pl_module, *_):
        with open(f"steps{trainer.global_rank}", "w") as file:
            file.write(str(trainer.global_step))
"""
WEIGHTS = """
import lightning, torch

class Weights(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        torch.save(weights, f"weights{trainer.global_rank}.pt")
"""


@pytest.fixture
def fabric_options(free_port):
    return ["--accelerator=cpu", "--devices=2", "--strategy=ddp", f"--main-port={free_port}", TRAIN]


def outcome(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    checkpoint = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    return without_times(metrics), checkpoint["state_dict"]


def assert_same(run_dir, other):
    (metrics, weights), (other_metrics, other_weights) = outcome(run_dir), outcome(other)
    assert metrics == other_metrics
    assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return a run of `memo train` with two processes, and the final weights of each."""
    directory = tmp_path_factory.mktemp("two")
    (directory / "weights.py").write_text(WEIGHTS)
    process = start(
        ["memo_lightning.cli.main", "train", *TINY, *TWO, "+callbacks.weights._target_=weights.Weights"], directory
    )
    output = finish(process)
    assert process.returncode == 0, output
    return directory, output


@pytest.mark.slow
def test_all_processes_end_with_the_same_weights_and_one_of_them_reports(two_processes):
    directory, output = two_processes
    weights = [torch.load(directory / f"weights{rank}.pt") for rank in (0, 1)]
    assert torch.equal(*weights)
    assert output.count("writing to") == output.count("return per trial  ") == 1, output
    assert sorted(path.name for path in directory.iterdir() if path.is_dir() and "cache" not in path.name) == ["run"]
    metrics, _ = outcome(directory / "run")
    assert metrics["frames"] == 1920
    assert [point["frames"] for point in metrics["history"]] == [*range(320, 1921, 320)], "frames of both"
    assert metrics["n_trials_averaged"] == 5 * 8, "trials of both"


@pytest.mark.slow
def test_torchrun_starts_the_same_run(two_processes, free_port, tmp_path):
    launcher = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port}"]
    process = start([*launcher, TRAIN, *TINY], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same(tmp_path / "run", two_processes[0] / "run")


@pytest.mark.slow
def test_lightning_run_starts_the_same_run(two_processes, fabric_options, tmp_path):
    process = start(["memo_lightning.cli.launch", "run", "model", *fabric_options, *TINY], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same(tmp_path / "run", two_processes[0] / "run")


@pytest.mark.slow
def test_a_killed_first_process_leaves_none_behind_and_fabric_run_goes_on_bit_for_bit(
    two_processes, fabric_options, tmp_path
):
    process = start(["memo_lightning.cli.main", "train", *TINY, *TWO], tmp_path)
    read_until(process, "frames/s")
    process.kill()
    output = finish(process, timeout=30)
    assert process.returncode == -signal.SIGKILL, output
    assert not (tmp_path / "run" / "metrics.json").exists(), "the run was over before it was killed"
    process = start(["lightning.fabric.cli", *fabric_options, "resume=run"], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same(tmp_path / "run", two_processes[0] / "run")


@pytest.mark.slow
def test_a_terminated_first_process_leaves_none_behind_and_a_checkpoint(tmp_path):
    never = ["total_frames=100000000", "callbacks.checkpointing.every_n_rollouts=1000"]
    process = start(["memo_lightning.cli.main", "train", *TINY, *TWO, *never], tmp_path)
    read_until(process, "frames/s")
    process.terminate()
    output = finish(process, timeout=30)
    assert process.returncode == PREEMPTED, output
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] >= 1


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Return a run with two processes, one of which breaks in its second rollout."""
    directory = tmp_path_factory.mktemp("broken")
    (directory / "breaking.py").write_text(BREAKING)
    environment = ["env._target_=breaking.Breaking", "+callbacks.diverging._target_=breaking.Diverging"]
    early_stop = ["algorithm.n_epochs=3", "algorithm.target_kl=0.4"]
    process = start(
        ["memo_lightning.cli.main", "train", *TINY, "collector.n_chunks=1", *TWO, *environment, *early_stop], directory
    )
    read_until(process, "RuntimeError: the simulator has lost its marbles")
    return process, finish(process, timeout=30), directory


@pytest.mark.slow
def test_an_environment_that_breaks_in_one_process_ends_all(broken):
    process, output, directory = broken
    assert process.returncode not in (0, 2), output
    assert read_checkpoint(directory / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] == 1


@pytest.mark.slow
def test_all_processes_stop_early_together(broken):
    """At a mean KL of 0.5 both stop after the first epoch of two minibatches, though the first has hardly changed."""
    _, _, directory = broken
    assert [(directory / f"steps{rank}").read_text() for rank in (0, 1)] == ["2", "2"]


def test_settings_follow_from_what_launchers_say():
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
    expected = ["trainer.devices=4", "trainer.num_nodes=2", "trainer.strategy=ddp"]
    assert launcher_overrides({}) == []
    assert launcher_overrides(torchrun) == expected
    allocation = {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
    step = {**allocation, "SLURM_STEP_ID": "0"}
    assert launcher_overrides(step) == expected
    assert isinstance(cluster_environment(step), SLURMEnvironment)
    assert isinstance(cluster_environment({**step, **torchrun}), TorchElasticEnvironment), "started by srun"
    for alone in (allocation, {**step, "SLURM_JOB_NAME": "bash"}):  # without srun, or in a shell opened by it
        assert launcher_overrides(alone) == []
        assert isinstance(cluster_environment(alone), LightningEnvironment)
    assert cluster_environment({}) is None
    fabric = {**torchrun, "LT_DEVICES": "auto", "LT_ACCELERATOR": "cuda", "LT_PRECISION": "bf16-mixed"}
    assert launcher_overrides(fabric) == [*expected, "trainer.accelerator=cuda", "trainer.precision=bf16-mixed"]
