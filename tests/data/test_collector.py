"""Chunks of rollouts: every step appears once, and truncated episodes come with the value of their last observation."""

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import Transform, TransformedEnv

from collecting import collect
from memo_lightning.callbacks import Baseline
from memo_lightning.config import config_dir
from memo_lightning.envs.build import build_env
from memo_lightning.envs.interface import interface_of
from memo_lightning.errors import UserError
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import MemoryPolicy, ObservationEncoder
from memo_lightning.policies.heads import ActorCriticHeads

MEMORIES = sorted({path.stem for path in (config_dir() / "baseline").glob("*.yaml")} - {"none", "custom"})
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32, "segment_length": 4, "summary_length": 2}


class Drift(gymnasium.Env):
    """Observes noise; episodes have 2 to 6 steps, and those of odd length are truncated by a limit."""

    observation_space = gymnasium.spaces.Box(-9, 9, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(2, 7))
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        over = self.t == self.length
        return self._observe(), float(action), over and self.length % 2 == 0, over and self.length % 2 == 1, {}

    def _observe(self):
        return self.np_random.normal(size=3).astype(np.float32)


def make_env(n_envs=12, **changes):
    settings = {"make": Drift, "trial_length": 19, "episodes_per_trial": None, **changes}
    return build_env({"_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv", **settings}, n_envs, 3)


def make_policy(env, memory="none"):
    torch.manual_seed(0)
    interface = interface_of(env)
    model = MemoTransformer(**SIZES)
    if memory != "none":
        settings = dict(_yaml(memory))
        settings.pop("_target_")
        model = Baseline(shared=SIZES, **{**settings, **({"top_k": 2} if memory == "retrieval" else {})}).model
    policy = MemoryPolicy(ObservationEncoder(interface.observed(), 16), model, ActorCriticHeads(16, interface.action))
    torch.nn.init.normal_(policy.heads.critic.module.weight)
    return policy.eval()


def _yaml(memory):
    import yaml

    return yaml.safe_load((config_dir() / "baseline" / f"{memory}.yaml").read_text())


def worth(policy, steps, index, t, final):
    """Return the value of an observation that replaces the one after step ``t``, computed from scratch."""
    whole = steps[index : index + 1, : t + 1].select(*policy.in_keys)
    last = whole[:, -1:].clone()
    last["observation", "observation"] = final.view(1, 1, -1)
    action, reward = steps["action"][index, t], steps["next", "reward"][index, t]
    last["previous_step"] = torch.cat([torch.eye(3)[action], reward, torch.zeros(1)]).view(1, 1, -1)
    last["is_init"] = torch.zeros(1, 1, 1, dtype=torch.bool)
    last["episode_end"] = torch.zeros(1, 1, 1, dtype=torch.bool)
    hidden = policy.hidden(torch.cat([whole, last], 1), **policy.sequence_model.acting_pass())
    return policy.heads.critic(TensorDict({"hidden": hidden[:, -1]}, [1]))["state_value"]


def test_a_chunk_is_what_torchrls_collector_collects_with_each_observation_once():
    (chunk,) = collect(make_env(), make_policy(make_env()), 40)
    theirs = Collector(
        make_env(), make_policy(make_env()), frames_per_batch=12 * 40, total_frames=-1, track_traj_ids=False
    )
    theirs.set_seed(5)
    torch.manual_seed(5)
    theirs.reset()
    expected = next(iter(theirs))
    steps = chunk["steps"]
    assert steps.batch_size == (12, 40)
    for key in steps.keys(True, True):
        if key != ("next", "final_value"):
            assert torch.equal(steps[key], expected[key]), key
    assert not any("observation" in key for key in steps["next"].keys(True, True) if isinstance(key, tuple))
    assert "observation" not in steps["next"].keys()
    assert "previous_step" not in steps["next"].keys()
    assert expected["next", "reward"].any()
    after = chunk["after"]
    going_on = ~steps["next", "done"][:, -1].squeeze(-1)
    assert going_on.any()
    final = expected["next"][:, -1][going_on]
    assert torch.equal(after["observation", "observation"][going_on], final["observation", "observation"])
    assert torch.equal(after["previous_step"][going_on], final["previous_step"])


@torch.no_grad()
@pytest.mark.parametrize("memory", ["none", *MEMORIES])
def test_a_cut_off_episode_is_worth_its_last_observation_under_the_memory_it_was_seen_with(memory):
    """Covers truncation within trials, at their ends and at the end of a chunk, at different steps per environment."""
    env, seen = make_env(), []
    original = env.base_env._step

    def record(tensordict):
        after = original(tensordict)
        seen.append(after.clone())
        return after

    env.base_env._step = record
    policy = make_policy(env, memory)
    chunks = collect(env, policy, 22, n_chunks=2)
    steps = torch.cat([chunk["steps"] for chunk in chunks], 1)
    cut_off, done = steps["next", "episode_truncated"].squeeze(-1), steps["next", "done"].squeeze(-1)
    assert (cut_off & ~done).sum() > 5, "inside trials"
    assert (cut_off & done).sum() > 2, "at their ends"
    assert cut_off[:, 21].any(), "at the end of a chunk"
    for index, t in cut_off.nonzero().tolist():
        kind = "observation" if done[index, t] else "final_observation"
        final = seen[-44:][t][kind, "observation"][index]
        expected = worth(policy, steps, index, t, final)
        torch.testing.assert_close(steps["next", "final_value"][index, t], expected[0], atol=1e-4, rtol=1e-4)
    assert (steps["next", "final_value"][~cut_off] == 0).all()


def test_a_look_at_the_last_observation_leaves_the_memory_as_it_was():
    kinds = []
    for is_end in (False, True):  # the same steps, with and without these extra evaluations
        (chunk,) = collect(make_env(time_limit_is_end=is_end), make_policy(make_env()), 40)
        kinds.append(chunk["steps"])
    assert "final_value" not in kinds[1]["next"].keys()
    for key in ("action", "state_value", "action_log_prob"):
        assert torch.equal(kinds[0][key], kinds[1][key]), key


def test_an_environment_that_does_not_say_what_ended_an_episode_is_told():
    class Silent(Transform):
        def _step(self, tensordict, next_tensordict):
            return next_tensordict.exclude("final_observation")

        def transform_observation_spec(self, spec):
            del spec["final_observation"]
            return spec

    env = TransformedEnv(make_env(), Silent())
    with pytest.raises(UserError, match="episode_truncated is true within a trial, but there is no final_observation"):
        collect(env, make_policy(make_env()), 22)


def test_images_are_stored_once():
    class Images(Drift):
        observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)

        def _observe(self):
            return self.np_random.integers(0, 256, (16, 16, 3), dtype=np.uint8)

    env = make_env(make=Images)
    (chunk,) = collect(env, make_policy(env), 40)
    images = [value for value in chunk.values(True, True) if value.dtype == torch.uint8]
    assert sum(image.nbytes for image in images) == 12 * (40 + 1) * 16 * 16 * 3
