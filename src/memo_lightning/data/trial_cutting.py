"""Cutting rollouts into trials, as a replay holds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from memo_lightning.data.collector import FINAL_INPUTS
from memo_lightning.envs.reports import TRUNCATED

VALID = "valid"
ENDS = ("done", "episode_end", TRUNCATED)


def cut_into_trials(
    rollout: TensorDictBase,
    following: TensorDictBase,
    input_keys: Sequence[NestedKey],
    n_steps: int,
    *,
    first: int = 0,
    is_complete: bool = True,
) -> TensorDict:
    """Return the trials ``[n, n_steps + 1]`` of a rollout ``[B, T]``, each from its first step.

    Step t of a trial holds the policy inputs, the ``action`` and, under ``next``, the resulting ``reward`` and the end
    flags ``done``, ``episode_end`` and ``episode_truncated``. The step after the last holds policy inputs only: what
    would have come next, for a trial that was cut off by a limit or by the end of the rollout. ``valid`` is true at
    the steps that were acted; everything after the last inputs is zero.

    Args:
        rollout: the steps so far; every sequence begins at the start of a trial.
        following: policy inputs ``[B]`` after the last step.
        input_keys: keys of the policy inputs.
        n_steps: steps of the longest trial.
        first: trials that ended before this step are left out.
        is_complete: whether the rollout is complete, so that trials still running end with it; else they are left out.

    Raises:
        ValueError: if a trial is longer than ``n_steps``.
    """
    done = rollout.get(("next", "done")).squeeze(-1)
    starts = rollout.get("is_init").squeeze(-1).clone()
    starts[:, 0] = True
    ends = done.clone()
    ends[:, :-1] |= starts[:, 1:]
    ends[:, -1] |= is_complete
    row, last = ends.nonzero().unbind(1)
    steps = torch.arange(rollout.shape[1], device=done.device)
    start = torch.where(starts, steps, 0).cummax(1).values[row, last]
    new = last >= first
    row, start, length = row[new], start[new], (last - start + 1)[new]
    if len(length) and int(length.max()) > n_steps:
        raise ValueError(f"a trial has {int(length.max())} steps: must be at most {n_steps}")

    place = torch.arange(n_steps + 1, device=done.device)  # (n_steps + 1)
    valid = place < length.unsqueeze(1)  # (n, n_steps + 1)
    index = (start.unsqueeze(1) + place).clamp(max=rollout.shape[1] - 1)
    rows = row.unsqueeze(1)

    def padded(values: Tensor) -> Tensor:
        taken = values[rows, index]
        return taken.masked_fill(~valid.view(*valid.shape, *[1] * (taken.ndim - 2)), 0)

    trials = TensorDict({VALID: valid}, valid.shape, device=done.device)
    end_of_trial = (torch.arange(len(length), device=done.device), length)
    finals = _inputs_after(rollout, following, input_keys, row, start + length - 1)
    for key in input_keys:
        values = padded(rollout.get(key))
        if key != "is_init":  # a trial does not begin a second time
            values[end_of_trial] = finals.get(key)
        trials.set(key, values)
    trials.set("action", padded(rollout.get("action")))
    trials.set(("next", "reward"), padded(rollout.get(("next", "reward"))))
    for name in ENDS:
        flags = rollout.get(("next", name), None)
        trials.set(("next", name), padded(torch.zeros_like(done.unsqueeze(-1)) if flags is None else flags))
    return trials


def _inputs_after(
    rollout: TensorDictBase, following: TensorDictBase, input_keys: Sequence[NestedKey], row: Tensor, last: Tensor
) -> TensorDictBase:
    """Return the policy inputs ``[n]`` that follow the steps ``last [n]`` of the sequences ``row [n]``."""
    after = following.select(*input_keys)[row]
    finals = rollout.get(("next", FINAL_INPUTS), None)
    if finals is None:  # nothing is ever cut off, so what follows the end of a trial does not matter
        return after
    ended = rollout.get(("next", "done"))[row, last].squeeze(-1)
    return torch.where(ended, finals.select(*input_keys)[row, last], after)
