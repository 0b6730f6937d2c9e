"""The benchmark against another project trains both on the same environments."""

import pytest

sb3 = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed (extra [peers])")

import numpy as np  # noqa: E402

from memo_lightning.benchmarks.peers import Trials, summarise, train_ours, train_sb3  # noqa: E402
from memo_lightning.config import compose_config  # noqa: E402
from memo_lightning.envs.build import build_env  # noqa: E402
from tiny import TINY_TRAINING  # noqa: E402


def test_the_other_project_sees_our_environments():
    config = compose_config("train", ["env.trial_length=30", "env.episode_length=10"]).env
    trials, env = Trials(config, 4), build_env(config, 4, seed=0)
    env.reset()  # SB3's environments need to know the observations
    observed, carrier = trials.reset(), env.reset()
    rng, total = np.random.default_rng(0), np.zeros(4)
    for step in range(1, 31):
        assert np.array_equal(observed[:, :12], carrier["observation", "observation"].numpy())
        actions = rng.integers(0, 5, 4)
        carrier["action"] = env.action_spec.zero() + carrier["episode_length"].new_tensor(actions)
        stepped, carrier = env.step_and_maybe_reset(carrier)
        observed, rewards, ends, _ = trials.step(actions)
        assert np.array_equal(rewards, stepped["next", "reward"][:, 0].numpy())
        assert (ends == (step == 30)).all()
        total += rewards
    assert list(trials.ended) == total.tolist()


def test_both_are_trained_for_some_seconds():
    ours = train_ours(TINY_TRAINING, seconds=0.5)
    for points in (ours, train_sb3(seconds=0.5)):
        assert points[-1][0] >= 0.5
        assert [frames for _, frames, _ in points] == sorted(frames for _, frames, _ in points)
        assert summarise(points, [0.5])["return_after_seconds"]["0.5"] == points[-1][2]
