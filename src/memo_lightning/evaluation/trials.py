"""Trials of a policy, run without keeping the observations in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lightning
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.data.trial_record import OPTIONAL, READ, TrialRecord, successes
from memo_lightning.policies import MemoryPolicy

N_BINS = 20


@dataclass(frozen=True)
class FirstTrial:
    """The data of the first trial that plots need.

    Attributes:
        inputs: inputs of the sequence model, ``[T, D]``.
        ends: bool ``[T]``, true where an episode ended.
        successes: bool ``[T]``, true where it ended with success; nowhere if the environment never reports it.
    """

    inputs: Tensor
    ends: Tensor
    successes: Tensor


@contextmanager
def acting(*, deterministic: bool) -> Iterator[None]:
    """Take the most likely actions within the context, or sample them; without gradients."""
    kind = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
    with torch.no_grad(), set_exploration_type(kind):
        yield


def run_trials(
    env: EnvBase,
    policy: MemoryPolicy,
    n_trials: int,
    trial_length: int,
    seed: int,
    progress: Callable[[], object] = lambda: None,
) -> tuple[TrialRecord, FirstTrial]:
    """Run at least ``n_trials`` trials, in rounds of one trial per environment.

    Only the rewards and reports of steps are kept and, for the first trial, the inputs of the sequence model.

    Args:
        env: the environments. They are seeded here, so every call runs the same trials if their length is the same.
        policy: the policy that acts; :func:`acting` decides whether it samples.
        n_trials: number of trials, rounded up to whole rounds of all environments.
        trial_length: steps of the longest possible trial.
        seed: seed of the environments and of sampled actions.
        progress: called after every step of all environments.
    """
    lightning.seed_everything(seed, verbose=False)
    env.set_seed(seed)
    records, first = [], None
    for _ in range(-(-n_trials // env.batch_size[0])):
        policy.reset_state()
        steps, inputs = _run_round(env, policy, trial_length, progress, keeps_inputs=first is None)
        records.append(TrialRecord.of(steps, N_BINS, trial_length))
        if first is None:
            ends = steps["next", "episode_end"]
            success = successes(steps)
            success = torch.zeros_like(ends) if success is None else success
            first = FirstTrial(inputs, *(flags[0].flatten()[: len(inputs)] for flags in (ends, success)))
    assert first is not None
    return TrialRecord.concatenate(records), first


def _run_round(
    env: EnvBase, policy: MemoryPolicy, trial_length: int, progress: Callable[[], object], *, keeps_inputs: bool
) -> tuple[TensorDict, Tensor]:
    """Step all environments until each has ended a trial.

    Returns:
        The rewards and reports, ``[N, t]``, and, if kept, the sequence model's inputs in the first trial, ``[T, D]``.
    """
    reported = env.observation_spec.keys(True)
    reports = [key for key in READ if key not in OPTIONAL or key in reported]
    steps, inputs = None, []
    td = env.reset()
    ended = torch.zeros(env.batch_size, dtype=torch.bool)
    for step in range(trial_length):
        if keeps_inputs and not ended[0]:
            inputs.append(policy.encode(td[:1].to(policy.device))[0].cpu())
        taken = policy(td.select(*policy.in_keys)).select(*policy.out_keys)
        td = td.update(taken.to(env.device or "cpu"))
        # As in TorchRL's rollouts, nothing is reset after the last step: the next round resets all environments.
        taken, td = (env.step(td), td) if step == trial_length - 1 else env.step_and_maybe_reset(td)
        kept = {"is_init": taken["is_init"], "next": taken["next"].select(*reports)}
        if steps is None:  # one block, as a TensorDict per step would take more memory than its contents
            steps = TensorDict(kept, env.batch_size).cpu().unsqueeze(1).expand(*env.batch_size, trial_length).clone()
        steps[:, step] = TensorDict(kept, env.batch_size).cpu()
        progress()
        ended |= steps["next", "done"][:, step].squeeze(-1)
        if ended.all():
            break
    assert steps is not None
    return steps[:, : step + 1], torch.stack(inputs) if inputs else torch.empty(0)
