"""The speed of natively batched environments."""

import time

import pytest
import torch

from memo_lightning.envs import DarkKeyToDoor, Darkroom, TMaze

N_ENVS = 4096


@pytest.mark.slow
@pytest.mark.parametrize("env_class", [DarkKeyToDoor, Darkroom, TMaze])
def test_a_core_makes_a_million_steps_a_second(env_class):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        env = env_class(n_envs=N_ENVS)
        td = env.rand_action(env.reset())
        seconds = []
        for _ in range(100):
            start = time.perf_counter()
            env.step_and_maybe_reset(td)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert N_ENVS / sorted(seconds)[50] >= 1_000_000
