"""Collecting chunks of rollouts: TorchRL's collector with what training needs and nothing else."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs.utils import set_exploration_type

from memo_lightning.envs.reports import FINAL_OBSERVATION, TRUNCATED
from memo_lightning.policies import MemoryPolicy
from memo_lightning.policies.encoders import OBSERVATION
from memo_lightning.policies.previous_step import PREVIOUS_STEP, as_if_the_episode_went_on

STEPS, AFTER = "steps", "after"
FINAL_VALUE = "final_value"


class TrialCollector(Collector):
    """Collects chunks: ``steps [B, T]``, and ``after [B]``, the policy inputs that follow the last step.

    ``steps`` holds the policy inputs, what the policy has added, and in ``next`` the reward, the ends and the reports.
    The next observations are those of the next step, so each is stored once.

    Where a limit has cut an episode off, ``next`` also holds as ``final_value`` what the policy thinks of the
    observation that ended it, under the memory it was seen with. That observation belongs to no step: the next episode
    may have begun in the same one.

    Takes the arguments of TorchRL's :class:`~torchrl.collectors.Collector`, of which ``frames_per_batch`` is the number
    of steps of all environments in a chunk.
    """

    policy: MemoryPolicy
    _carrier: TensorDictBase

    @torch.no_grad()
    def rollout(self) -> TensorDictBase:
        """Return the next chunk."""
        if self.reset_at_each_iter:
            self._carrier.update(self.env.reset())
        chunk = getattr(self, "_chunk", None)  # worker processes write every chunk into the same memory
        with set_exploration_type(self.exploration_type):
            for t in range(self.frames_per_batch):
                step = self._step()
                if chunk is None:
                    chunk = self._new_chunk(step)
                chunk[STEPS][:, t] = step
        assert chunk is not None
        chunk[AFTER].update_(self._policy_inputs(self._carrier))
        if self._use_buffers:
            self._chunk = chunk
        return chunk

    def _step(self) -> TensorDict:
        """Act once in all environments, and return the step ``[B]`` as it is stored."""
        inputs = self._policy_inputs(self._carrier)
        taken = self.policy(inputs.copy()).select(*self.policy.out_keys)
        self._carrier.update(taken if self.env.device is None else taken.to(self.env.device))
        output, following = self.env.step_and_maybe_reset(self._carrier)
        after = output["next"]
        step = TensorDict({**inputs, **taken}, self.env.batch_size)
        if "policy_version" in output.keys():  # of workers that do not wait for new weights
            step["policy_version"] = output["policy_version"]
        observed = {OBSERVATION, FINAL_OBSERVATION, *self.policy.in_keys} - {"episode_end"}
        reported = after.exclude(*observed, "action_mask", PREVIOUS_STEP, "is_init", "policy_version")
        if TRUNCATED in after.keys():
            reported[FINAL_VALUE] = self._final_values(after)
        step["next"] = reported
        self._carrier = following
        return step

    def _final_values(self, after: TensorDictBase) -> Tensor:
        """Return ``[B, 1]``, the values of the observations that ended episodes which were cut off; zero elsewhere."""
        values = torch.zeros_like(after["reward"])
        cut_off = after[TRUNCATED].flatten().nonzero().flatten()
        if len(cut_off):
            if FINAL_OBSERVATION in after.keys():
                within = (after[TRUNCATED] & ~after["done"]).flatten()  # of others, it is what is observed next
                after = after.copy()
                after[OBSERVATION] = torch.where(within, after[FINAL_OBSERVATION], after[OBSERVATION])
            inputs = self._policy_inputs(after)
            if PREVIOUS_STEP in inputs.keys():
                inputs[PREVIOUS_STEP] = as_if_the_episode_went_on(inputs[PREVIOUS_STEP])
            inputs["episode_end"] = torch.zeros_like(inputs["episode_end"])
            values[cut_off] = self.policy.next_values(inputs, cut_off).to(values.device)
        return values

    def _policy_inputs(self, tensordict: TensorDictBase) -> TensorDict:
        """Return what the policy reads of a step ``[B]``, where it computes."""
        return tensordict.select(*self.policy.in_keys).to(self.policy.device)

    def _new_chunk(self, step: TensorDictBase) -> TensorDict:
        """Return room for a chunk of steps like ``step [B]``."""
        n_envs, n_steps = len(step), self.frames_per_batch
        device = self.storing_device or self.policy.device
        steps = step.to(device).apply(
            lambda value: value.new_empty(n_envs, n_steps, *value.shape[1:]), batch_size=[n_envs, n_steps]
        )
        after = self._policy_inputs(self._carrier).to(device)
        # TorchRL counts the frames of workers by their trajectories, which are not told apart here.
        counted = {"collector": TensorDict({"traj_ids": torch.zeros(n_envs, n_steps)}, [n_envs])}
        return TensorDict({STEPS: steps, AFTER: after.clone(), **counted}, [n_envs], device=device)
