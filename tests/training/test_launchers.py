"""Two processes train as one, whoever starts them, and end together, however they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.errors import PREEMPTED
from memo_lightning.evaluation.checkpoints import load_checkpoint
from memo_lightning.training.launchers import launcher_overrides

TRAIN = str(Path(memo_lightning.__file__).parent / "cli" / "train.py")
TINY = [
    "debug=smoke",
    "total_frames=1280",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=4",
    "algorithm.n_minibatches=2",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
    "model.layer_drop=0.5",  # a process that waits for the gradient of a skipped layer waits for ever
    "run_dir=run",
    "logger=none",
]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
# A test environment like any other, except that the second process's breaks in its second rollout.
BREAKING = """
import os
from memo_lightning.envs import DarkKeyToDoor

class Breaking(DarkKeyToDoor):
    steps = 0

    def _advance(self, action):
        self.steps += 1
        if self.steps == 60 and os.environ.get("LOCAL_RANK") == BROKEN:
            raise RuntimeError("the simulator has lost its marbles")
        return super()._advance(action)
"""
WEIGHTS = """
import lightning, torch

class Weights(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        weights = torch.cat([parameter.detach().flatten() for parameter in pl_module.parameters()])
        torch.save(weights, f"weights{trainer.global_rank}.pt")
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(arguments, directory, **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(directory)]), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # to find what it leaves behind
    )


def read_until(process, text):
    """Read what a process prints, up to a line that holds ``text``."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    finish(process)
    pytest.fail(f"never printed {text!r}:\n{''.join(lines)}")


def finish(process, timeout=120):
    """Return the output of a process that must leave no process behind."""
    try:
        output, _ = process.communicate(timeout=timeout)
        for _ in range(50):
            if not session(process.pid):
                return output
            time.sleep(0.1)
        raise AssertionError(f"processes left behind: {session(process.pid)}\n{output}")
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)


def session(leader):
    """Return the processes of a session that are not dead."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == leader and state != "Z":
            pids.append(int(entry.parent.name))
    return pids


def outcome(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    checkpoint = load_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    return {k: v for k, v in metrics.items() if k not in ("frames_per_second", "wall_seconds")}, checkpoint[
        "state_dict"
    ]


def assert_same(run_dir, other):
    (metrics, weights), (other_metrics, other_weights) = outcome(run_dir), outcome(other)
    assert metrics == other_metrics
    assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A run of two processes from `memo train`, and the weights that each ended with."""
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
    assert metrics["frames"] == 1280
    assert [point["frames"] for point in metrics["history"]] == [320, 640, 960, 1280], "frames of both"
    assert metrics["n_trials_averaged"] == 4 * 8, "trials of both"


@pytest.mark.slow
def test_torchrun_starts_the_same_run(two_processes, tmp_path):
    launcher = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    process = start([*launcher, TRAIN, *TINY], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same(tmp_path / "run", two_processes[0] / "run")


@pytest.mark.slow
def test_lightning_run_starts_the_same_run_and_fabric_run_goes_on_with_it(two_processes, tmp_path):
    options = ["--accelerator=cpu", "--devices=2", "--strategy=ddp", f"--main-port={free_port()}", TRAIN]
    process = start(["memo_lightning.cli.launch", "run", "model", *options, *TINY, "total_frames=640"], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    process = start(["lightning.fabric.cli", *options, "resume=run", "total_frames=1280"], tmp_path)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same(tmp_path / "run", two_processes[0] / "run")


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_environment_that_breaks_in_one_process_ends_all(rank, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING.replace("BROKEN", repr(rank)))
    process = start(["memo_lightning.cli.main", "train", *TINY, *TWO, "env._target_=breaking.Breaking"], tmp_path)
    read_until(process, "RuntimeError: the simulator has lost its marbles")
    output = finish(process, timeout=30)
    assert process.returncode not in (0, 2), output
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_first_process_leaves_none_behind_and_a_checkpoint(signum, tmp_path):
    endless = ["total_frames=100000000", "callbacks.progress.lines=100000000"]
    process = start(["memo_lightning.cli.main", "train", *TINY, *TWO, *endless], tmp_path)
    read_until(process, "frames/s")
    read_until(process, "frames/s")  # so the checkpoint of the first rollout is there
    process.send_signal(signum)
    output = finish(process, timeout=30)
    assert process.returncode == (PREEMPTED if signum == signal.SIGTERM else -signal.SIGKILL), output
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] >= 1


def test_settings_follow_from_what_launchers_say():
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
    expected = ["trainer.devices=4", "trainer.num_nodes=2", "trainer.strategy=ddp"]
    assert launcher_overrides({}) == []
    assert launcher_overrides(torchrun) == expected
    assert launcher_overrides({"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}) == expected
    fabric = {**torchrun, "LT_DEVICES": "auto", "LT_ACCELERATOR": "cuda", "LT_PRECISION": "bf16-mixed"}
    assert launcher_overrides(fabric) == [*expected, "trainer.accelerator=cuda", "trainer.precision=bf16-mixed"]


@pytest.mark.slow
def test_sigterm_saves_the_run_which_then_goes_on_as_if_it_had_not_stopped(two_processes, tmp_path):
    never = "callbacks.checkpointing.every_n_rollouts=1000"
    process = start(["memo_lightning.cli.main", "train", *TINY, never], tmp_path)
    read_until(process, "frames/s")
    process.send_signal(signal.SIGTERM)
    output = finish(process, timeout=30)
    assert process.returncode == PREEMPTED, output
    assert "preempted; checkpoint: run/checkpoints/last.ckpt\nnext: memo train resume=run" in output
    assert 0 < load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["frames"] < 1280
    assert main(["train", f"resume={tmp_path}/run"]) == 0
    assert main(["train", *TINY, f"run_dir={tmp_path}/other"]) == 0
    assert_same(tmp_path / "run", tmp_path / "other")
