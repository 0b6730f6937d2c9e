"""Worker processes give the same results, and no failure hangs or leaves processes behind."""

import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from test_gymnasium_trials import rollout
from toys import Busy, Everything, Slow, Walk, faulty

from memo_lightning.benchmarks.env_workers import steps_per_second
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.errors import EnvironmentFailure


def is_running(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def have_ended(pids, seconds=20):
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def worker_pids(env):
    return [worker.process.pid for worker in env._runners._workers]


@pytest.mark.parametrize("make", [Walk, Everything])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_do_not_depend_on_the_number_of_workers(make, workers):
    here = GymnasiumEnv(n_envs=5, make=make, trial_length=9, seed=3)
    there = GymnasiumEnv(n_envs=5, make=make, trial_length=9, seed=3, workers=workers)
    zero = here.full_action_spec["action"].zero()
    expected, got = (
        env.rollout(25, lambda td: td.set("action", zero), break_when_any_done=False) for env in (here, there)
    )
    for key in expected.keys(True, True):
        assert torch.equal(expected[key], got[key]), key
    there.close()


class Careless(Walk):
    """Draws its observations from the global random numbers of torch, numpy and Python."""

    def step(self, action):
        _, *rest = super().step(action)
        drawn = torch.rand(()), np.random.random(), random.random()  # noqa: NPY002 - what is tested
        return np.array(drawn, np.float32), *rest

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    observation_space = gymnasium.spaces.Box(0, 1, (3,))


def test_workers_have_global_random_numbers_of_their_own_that_the_seed_decides():
    env = GymnasiumEnv(n_envs=3, make=Careless, trial_length=50, workers=3)
    seen = []
    for seed in (4, 4, 5):
        env.set_seed(seed)
        seen.append(env.rollout(1, break_when_any_done=False)["next", "observation", "observation"].squeeze(1))
    env.close()
    assert torch.equal(seen[0], seen[1])
    assert all(len(torch.cat([seen[0], seen[2]])[:, stream].unique()) == 6 for stream in range(3))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_the_end_of_an_episode_are_kept_where_they_are_asked_for(workers):
    env = GymnasiumEnv(n_envs=2, make=Walk, trial_length=50, workers=workers)
    td = env.reset()
    env.watch()
    while not td["episode_end"][1]:
        td = env.step(env.rand_action(td))["next"]
    assert (env.last_image(1) == int(td["episode_length"][1])).all()
    assert (env.image(1) == 0).all(), "the next one has begun"
    env.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "raise",
            r"env worker 0: environment 0 \(<Faulty instance>\): RuntimeError: the motor is on fire\n"
            r"(.*\n)*.*toys.py",
        ),
        ("die", r"env worker 0 \(environments 0 to 1\) died: SIGKILL"),
        ("exit", r"env worker 0 \(environments 0 to 1\) died: exit status 7"),
        (
            "hang",
            r"env worker 0 \(environments 0 to 1\) hangs: no answer within 2 s \(env.step_timeout\)\n"
            r"(.*\n)*.*toys.py.*in step",
        ),
    ],
)
def test_a_worker_that_goes_wrong_ends_the_run_and_all_workers(fault, message):
    env = GymnasiumEnv(n_envs=4, make=faulty(fault), trial_length=50, workers=2, step_timeout=2.0)
    pids = worker_pids(env)
    start = time.monotonic()
    with pytest.raises(EnvironmentFailure, match=message):
        rollout(env)
    assert time.monotonic() - start < 10
    assert have_ended(pids, 2)
    env.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_time_for_which_the_run_is_suspended_is_not_its_environments(workers):
    """Ctrl-Z stops all processes of a run in the middle of a step; the pause must not count towards the timeout."""
    env = GymnasiumEnv(n_envs=2, make=Busy, trial_length=9, workers=workers, step_timeout=5.0)
    td = env.rand_action(env.reset())
    pids = [os.getpid(), *worker_pids(env)] if workers else [os.getpid()]
    others = " ".join(map(str, pids))
    suspension = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -STOP {others}; sleep 5.5; kill -CONT {others}"])
    start = time.monotonic()
    assert torch.isfinite(env.step(td)["next", "reward"]).all()
    assert suspension.wait() == 0
    assert time.monotonic() - start > 5.5
    env.close()


def test_closing_ends_the_workers_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    env = GymnasiumEnv(n_envs=2, make=Walk, trial_length=5, workers=2)
    pids = worker_pids(env)
    assert all(map(is_running, pids))
    assert len(list(tmp_path.glob("memo-worker-*"))) == 2
    env.close()
    assert have_ended(pids, 2)
    assert not list(tmp_path.glob("memo-worker-*"))


def test_workers_end_with_a_parent_that_is_killed_while_they_hang():
    context = multiprocessing.get_context("forkserver")  # a server with slow imports already done
    here, there = context.Pipe()
    parent = context.Process(target=hang_with_workers, args=(there,))
    parent.start()
    pids = here.recv()
    assert len(pids) == 2
    time.sleep(1)  # until they hang
    assert all(map(is_running, pids))
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert have_ended(pids)


def hang_with_workers(connection):
    env = GymnasiumEnv(n_envs=2, make=faulty("hang"), trial_length=50, workers=2, step_timeout=100.0)
    connection.send(worker_pids(env))
    env.rollout(10)


@pytest.mark.skipif(
    (os.cpu_count() or 1) < 2 or "PYTEST_XDIST_WORKER" in os.environ,
    reason="needs two cores that no other test uses: pytest tests/envs/gymnasium -k millisecond",
)
def test_two_workers_step_1_6_times_as_fast_where_a_step_computes_for_a_millisecond():
    assert steps_per_second(2) / steps_per_second(0) >= 1.6


def test_two_workers_step_almost_twice_as_fast_where_steps_are_slow():
    def seconds_per_step(workers):
        env = GymnasiumEnv(n_envs=8, make=Slow, trial_length=50, workers=workers)
        td = env.rand_action(env.reset())
        times = []
        for _ in range(10):
            start = time.perf_counter()
            env.step_and_maybe_reset(td)
            times.append(time.perf_counter() - start)
        env.close()
        return min(times)  # the time on an idle machine

    assert seconds_per_step(0) / seconds_per_step(2) > 1.6
