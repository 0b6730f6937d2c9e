"""Ray's workers collect what processes on one machine would, and exit when the run ends."""

import signal
import socket
import sys
import time

import psutil
import pytest
import torch

from memo_lightning.cli.main import main
from memo_lightning.data import RayDataModule
from memo_lightning.errors import PREEMPTED, UserError
from memo_lightning.policies.checkpoint import read_checkpoint
from started import end, finish, read_until, session, start
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=1280",
    "collector.n_chunks=2",
    "algorithm.shuffle_episodes=true",
    "logger=none",
    "run_dir=run",
]
FAULTY = """
import os, time
from memo_lightning.envs import DarkKeyToDoor

class Faulty(DarkKeyToDoor):
    steps = 0

    def _advance(self, action):
        self.steps += 1
        if self.steps == 60:
            with open("FOLDER/raised", "w") as file:
                file.write(str(time.time()))
            FAULT
        return super()._advance(action)
"""
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1", "::1")


def train(directory, *overrides, **variables):
    return start(["memo_lightning.cli.main", "train", *TINY, "collector=ray", *overrides], directory, **variables)


def weights(directory):
    return read_checkpoint(directory / "run" / "checkpoints" / "last.ckpt")["state_dict"]


def assert_same(one, other):
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the weights after the same run with processes on one machine."""
    pytest.importorskip("ray")
    directory = tmp_path_factory.mktemp("multi_sync")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main(["train", *TINY, "collector=multi_sync"]) == 0
    return weights(directory)


@pytest.mark.slow
def test_a_run_is_that_of_processes_of_one_machine_and_closed_to_others(expected, tmp_path):
    pytest.importorskip("ray")
    process = train(tmp_path, OMP_NUM_THREADS="1")
    output = read_until(process, "frames/s")
    sockets = [s for other in session(process) for s in other.net_connections("inet") if s.status == psutil.CONN_LISTEN]
    addresses = {connection.laddr.ip for connection in sockets}
    output += finish(process)
    assert process.returncode == 0, output
    assert len(sockets) > 3
    assert addresses <= set(LOOPBACK)
    assert_same(expected, weights(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            'raise RuntimeError("the simulator has lost its marbles")',
            "RuntimeError: the simulator has lost its marbles",
        ),
        ("os.kill(os.getpid(), 9)", "The actor died unexpectedly before finishing this task"),
    ],
    ids=["raises", "is killed"],
)
def test_a_worker_that_fails_ends_the_run(tmp_path, fault, says):
    pytest.importorskip("ray")
    (tmp_path / "faulty.py").write_text(FAULTY.replace("FOLDER", str(tmp_path)).replace("FAULT", fault))
    process = train(tmp_path, "env._target_=faulty.Faulty")
    output = finish(process)
    assert process.returncode == 1, output
    assert "Traceback" in output
    assert says in output
    assert time.time() - float((tmp_path / "raised").read_text()) < 30
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] == 1


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_no_process(tmp_path):
    pytest.importorskip("ray")
    process = train(tmp_path, "total_frames=100000000", "callbacks.progress.lines=100000000")
    read_until(process, "frames/s")
    read_until(process, "frames/s")  # now the checkpoint of the first rollout exists
    process.send_signal(signal.SIGTERM)
    output = finish(process, timeout=30)
    assert process.returncode == PREEMPTED, output
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["rollouts_done"] >= 1


@pytest.mark.slow
def test_workers_of_a_cluster_that_is_there(expected, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, port_of_clients = one.getsockname()[1], other.getsockname()[1]
    # This switch restricts the cluster to 127.0.0.1.
    variables = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    options = [f"--port={port}", f"--ray-client-server-port={port_of_clients}", "--num-cpus=2"]
    options += ["--include-dashboard=false"]
    head = start(["ray.scripts.scripts", "start", "--head", "--block", *options], tmp_path, **variables)
    try:
        read_until(head, "Ray runtime started")
        address = f"collector.address=127.0.0.1:{port}"
        process = train(tmp_path, address, "collector.n_workers=4", **variables)
        output = finish(process)
        assert process.returncode == 2, output
        assert "collector.n_workers=4: must be at most 2, as the cluster has 2 cores" in output
        process = train(tmp_path, address, OMP_NUM_THREADS="1", **variables)
        output = finish(process)
        assert process.returncode == 0, output
        assert_same(expected, weights(tmp_path))
        assert head.poll() is None
    finally:
        end(head)


def test_ray_that_is_not_installed_is_said_in_one_line(in_tmp_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["train", *TINY, "collector=ray"]) == 2
    error = capsys.readouterr().err
    assert error == "memo: collector=ray: Ray is not installed; pip install 'memo-lightning[ray]'\n"
    assert not (in_tmp_dir / "run").exists()


def test_settings_that_cannot_be_are_refused(make_env):
    pytest.importorskip("ray")

    def refused(match, **changes):
        settings = {"n_envs": 8, "rollout_length": 12, "n_chunks": 1, "total_frames": 96, "seed": 0, "n_workers": 2}
        with pytest.raises(UserError, match=match):
            RayDataModule(make_env, **{**settings, "cpus_per_worker": 1, "address": None, **changes})

    refused(r"collector\.n_workers=3: must be a divisor of collector\.n_envs=8", n_workers=3)
    refused(r"collector\.cpus_per_worker=0: must be at least 1", cpus_per_worker=0)
    refused(r"collector\.address='nonsense': must be the address of a Ray cluster \(Invalid", address="nonsense")
    refused(r"collector\.address='localhost:1': must be the address .* \(Connection refused\)", address="localhost:1")
    refused(r"collector\.address='ray://localhost:1': must be the address of .* refused\)", address="ray://localhost:1")
