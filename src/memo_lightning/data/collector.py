"""Collecting chunks of rollouts: TorchRL's collector, reduced to what training needs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key_list
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs.utils import set_exploration_type

from memo_lightning.envs.reports import FINAL_OBSERVATION, TRUNCATED
from memo_lightning.errors import UserError
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.previous_step import PREVIOUS_STEP, as_if_the_episode_went_on

STEPS, AFTER = "steps", "after"
FINAL_VALUE, FINAL_INPUTS = "final_value", "final_inputs"


class TrialCollector(Collector):
    """Collector of chunks: ``steps [B, T]``, and ``after [B]``, the policy inputs that follow the last step.

    ``steps`` holds the policy inputs, the policy's outputs and, under ``next``, the reward, the end flags and the
    environment's reports. The next observations are those of the next step, so each observation is stored once.

    Where a limit has cut an episode off, ``next`` also holds ``final_value``: the policy's value of the last
    observation of the episode, given the memory at that point. That observation belongs to no step, since the next
    episode may have begun in the same step. For a policy without values, ``next`` holds the observation itself instead,
    as policy inputs ``final_inputs``, which are meaningless where nothing was cut off.

    Takes the arguments of TorchRL's :class:`~torchrl.collectors.Collector`; ``frames_per_batch`` counts the steps of
    all environments in a chunk.
    """

    policy: MemoryPolicy
    _carrier: TensorDictBase

    @torch.no_grad()
    def rollout(self) -> TensorDictBase:
        """Return the next chunk."""
        if self.reset_at_each_iter:
            self._carrier.update(self.env.reset())
        chunk: TensorDict | None = getattr(self, "_chunk", None)
        stored: dict[NestedKey, Tensor] = {}
        with set_exploration_type(self.exploration_type):
            for t in range(self.frames_per_batch):
                step = self._step()
                if not stored:
                    chunk = self._new_chunk(step) if chunk is None else chunk
                    stored = {key: chunk[STEPS].get(key) for key in step}
                for key, value in step.items():
                    stored[key][:, t] = value
        assert chunk is not None
        chunk[AFTER].update_(self._policy_inputs(self._carrier))
        if self._use_buffers:  # worker processes write every chunk into the same buffer
            self._chunk = chunk
        return chunk

    def _step(self) -> dict[NestedKey, Tensor]:
        """Act once in all environments, and return the tensors to store, ``[B, ...]`` each."""
        carrier = self._carrier
        if self._acts_elsewhere:
            inputs = self.policy(carrier.select(*self.policy.in_keys))
            carrier.update(inputs.select(*self.policy.out_keys).to(self.env.device or "cpu"))
        else:
            inputs = self.policy(carrier)
        # Copies: an environment may write the next step into the same tensors.
        step = {key: inputs.get(key).clone() for key in self.policy.in_keys}
        step |= {key: carrier.get(key) for key in self.policy.out_keys}
        output, self._carrier = self.env.step_and_maybe_reset(carrier)
        after = output["next"]
        if "policy_version" in output.keys():  # from workers that do not wait for new weights
            step["policy_version"] = output["policy_version"]
        step |= {("next", *key): after.get(key) for key in self._reported_keys}
        if TRUNCATED in after.keys():
            cut_off = after[TRUNCATED].flatten().nonzero().flatten()
            if self.policy.heads.has_critic:
                step["next", FINAL_VALUE] = self._final_values(after, cut_off)
            else:
                inputs = self._final_inputs(after) if len(cut_off) else self._policy_inputs(after)
                step |= {("next", FINAL_INPUTS, *_path(key)): inputs.get(key).clone() for key in self.policy.in_keys}
        return step

    @cached_property
    def _acts_elsewhere(self) -> bool:
        """Whether the policy is on a different device from the environments."""
        return self.policy.device != (self.env.device or torch.device("cpu"))

    @cached_property
    def _reported_keys(self) -> list[tuple[str, ...]]:
        """The keys of a step's result that are stored: all that are not observations."""
        observed = {OBSERVATION, FINAL_OBSERVATION, PREVIOUS_STEP, ACTION_MASK, "is_init", "policy_version"}
        specs = (self.env.full_observation_spec, self.env.full_done_spec, self.env.full_reward_spec)
        paths = [_path(unravel_key_list([key])[0]) for spec in specs for key in spec.keys(True, True)]
        return [path for path in paths if path[0] not in observed]

    def _final_values(self, after: TensorDictBase, cut_off: Tensor) -> Tensor:
        """Return ``[B, 1]``, the values of the last observations of episodes that were cut off; zero elsewhere."""
        values = torch.zeros_like(after["reward"])
        if len(cut_off):
            values[cut_off] = self.policy.next_values(self._final_inputs(after), cut_off).to(values.device)
        return values

    def _final_inputs(self, after: TensorDictBase) -> TensorDictBase:
        """Return policy inputs ``[B]`` in which episodes that were cut off have not ended."""
        within = (after[TRUNCATED] & ~after["done"]).flatten()  # at the end of a trial, it is the next observation
        if within.any():
            if FINAL_OBSERVATION not in after.keys():
                raise UserError(
                    f"env: {TRUNCATED} is true within a trial, but there is no {FINAL_OBSERVATION}; report the last "
                    f"observation of the episode as ('{FINAL_OBSERVATION}', KEY), or leave {TRUNCATED} false if the "
                    f"limit is part of the task"
                )
            after = after.copy()
            after[OBSERVATION] = torch.where(within, after[FINAL_OBSERVATION], after[OBSERVATION])
        inputs = self._policy_inputs(after)
        if PREVIOUS_STEP in inputs.keys():
            inputs[PREVIOUS_STEP] = as_if_the_episode_went_on(inputs[PREVIOUS_STEP])
        inputs["episode_end"] = torch.zeros_like(inputs["episode_end"])
        return inputs

    def _policy_inputs(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the policy inputs of a step ``[B]``, on the policy's device."""
        inputs = tensordict.select(*self.policy.in_keys)
        return inputs.to(self.policy.device) if self._acts_elsewhere else inputs

    def _new_chunk(self, step: Mapping[NestedKey, Tensor]) -> TensorDict:
        """Allocate a chunk for steps like this one."""
        n_envs, n_steps = self.env.batch_size[0], self.frames_per_batch
        device = self.storing_device or self.policy.device
        steps = TensorDict({}, [n_envs, n_steps], device=device)
        for key, value in step.items():
            steps.set(key, torch.empty(n_envs, n_steps, *value.shape[1:], dtype=value.dtype, device=device))
        after = self._policy_inputs(self._carrier).to(device).clone()
        # TorchRL counts the frames of workers by trajectory ids, which are not tracked here.
        counted = TensorDict({"traj_ids": torch.zeros(n_envs, n_steps)}, [n_envs])
        return TensorDict({STEPS: steps, AFTER: after, "collector": counted}, [n_envs], device=device)


def _path(key: NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else tuple(key)
