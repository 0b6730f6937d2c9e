"""Checking that an environment keeps the contract that training relies on, and saying in words where it does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.data import Bounded, Categorical, MultiCategorical, TensorSpec
from torchrl.envs import EnvBase, check_env_specs

from memo_lightning.envs.build import build_env
from memo_lightning.envs.reports import REPORTS, reports_of
from memo_lightning.errors import UserError
from memo_lightning.policies.build import build_policy

_ROWS = 4
_STEPS = 400  # at most, in checks that step


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: what was looked at.
        problem: what is wrong and what to do about it; None where nothing is.
        note: a figure or remark where nothing is wrong.
    """

    name: str
    problem: str | None = None
    note: str = ""


def check_env(config: DictConfig) -> Iterator[Finding]:
    """Yield what the checks of ``config.env`` find, one after another.

    Args:
        config: a configuration of ``memo train``.

    Raises:
        UserError: if the environment or a policy for it cannot be built.
    """
    env = _build(config, _ROWS, 0)
    try:
        yield Finding("observation", note=", ".join(_describe(env)))
        yield Finding("action", note=_describe_action(env.action_spec))
        missing = [name for name in (*REPORTS, "done", "reward") if name not in _reported(env)]
        if missing:
            yield Finding("reports", f"lacks {', '.join(missing)}; see docs/how-to/own-environment.md")
            return
        steps = min(_STEPS, config.env.trial_length + 5)
        actions = [env.action_spec.rand() for _ in range(steps)]
        try:
            first = _rollout(env, actions, seed=1)
        except UserError as error:
            yield Finding("steps", str(error))
            return
        yield _check_values(env, first)
        yield _check_specs(env)
        policy = build_policy(config, env)
        yield Finding("policy", note=f"{sum(p.numel() for p in policy.parameters()):,} parameters")
        yield _check_trials(first, config.env.trial_length)
        yield _check_seeds(env, actions, first)
        yield _check_partial_reset(env, actions)
    finally:
        env.close()
    yield _check_neighbours(config, actions, first)
    yield _measure(config)


def _build(config: DictConfig, n_envs: int, seed: int) -> EnvBase:
    return build_env(config.env, n_envs, seed)


def _reported(env: EnvBase) -> set[str]:
    return {*env.observation_spec.keys(), *env.full_done_spec.keys(), *env.full_reward_spec.keys()}


def _describe(env: EnvBase) -> Iterator[str]:
    for name, spec in env.observation_spec.items():
        if name not in reports_of(env):
            yield f"{name} {list(spec.shape[1:])} {str(spec.dtype).removeprefix('torch.')}"


def _describe_action(spec: TensorSpec) -> str:
    if isinstance(spec, MultiCategorical):
        return f"{spec.shape[-1]} choices"
    if isinstance(spec, Categorical):
        return f"one of {spec.n}"
    return f"{list(spec.shape[1:])} numbers within bounds"


def _rollout(env: EnvBase, actions: list[torch.Tensor], seed: int) -> TensorDictBase:
    """Return ``[N, T]`` under given actions, after seeding."""
    env.set_seed(seed)
    torch.manual_seed(seed)
    taken = iter(actions)
    return env.rollout(len(actions), lambda td: td.set("action", next(taken)), break_when_any_done=False)


def _check_specs(env: EnvBase) -> Finding:
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    try:
        check_env_specs(env, seed=0)
    except Exception as error:  # whatever the environment or TorchRL's assertions raise
        return Finding("specs", f"steps do not match the specs: {' '.join(str(error).split())[:300] or repr(error)}")
    return Finding("specs", note="shapes and dtypes of resets and steps are what the specs say")


def _check_values(env: EnvBase, rows: TensorDictBase) -> Finding:
    """Look at every number of every step ``[N, T]``, and of the observation before it."""
    largest = 0.0
    for name, spec in (*env.observation_spec.items(), ("reward", env.reward_spec)):
        value = rows.get(("next", name))
        if name != "reward":
            value = torch.cat([rows.get(name)[:, :1], value], 1)  # [N, T + 1], that of the reset first
        wrong = ~value.isfinite() | _is_outside(value, spec)
        if wrong.any():
            row, step, *rest = wrong.nonzero()[0].tolist()
            where = f"{name}{rest}" if len(rest) and value[0, 0].numel() > 1 else name
            number, after = value[(row, step, *rest)].item(), "the reset" if step == 0 else f"step {step}"
            return Finding(
                "values",
                f"{where} is {number:g} after {after} in row {row}; must be {_allowed(spec, rest)}: correct the space, "
                f"or clip the value",
            )
        if name not in (*reports_of(env), "reward"):
            largest = max(largest, float(value.float().abs().max()))
    return Finding("values", note=f"finite and within their spaces; the largest is {largest:.3g}")


def _is_outside(value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """Return where ``value [N, T, ..]`` leaves the bounds of ``spec [N, ..]``."""
    if isinstance(spec, Bounded):
        return (value < spec.space.low.unsqueeze(1)) | (value > spec.space.high.unsqueeze(1))
    if isinstance(spec, MultiCategorical):
        return (value < 0) | (value >= spec.nvec.reshape(-1, spec.nvec.shape[-1])[0])
    if isinstance(spec, Categorical) and value.dtype != torch.bool:
        return (value < 0) | (value >= spec.n)
    return torch.zeros_like(value, dtype=torch.bool)


def _allowed(spec: TensorSpec, index: list[int]) -> str:
    if isinstance(spec, Bounded):
        low, high = (float(bound[(0, *index)]) for bound in (spec.space.low, spec.space.high))
        return f"finite, from {low:g} to {high:g}"
    if isinstance(spec, MultiCategorical):
        return f"from 0 to {int(spec.nvec.reshape(-1, spec.nvec.shape[-1])[(0, *index)]) - 1}"
    return f"from 0 to {int(spec.n) - 1}" if isinstance(spec, Categorical) else "finite"


def _check_trials(rows: TensorDictBase, trial_length: int) -> Finding:
    done, end = rows.get(("next", "done")).squeeze(-1), rows.get(("next", "episode_end")).squeeze(-1)
    if len(done[0]) >= trial_length and not done[:, :trial_length].any(1).all():
        return Finding("trials", f"no end of a trial ('done') within env.trial_length={trial_length} steps")
    length, total = rows.get(("next", "episode_length")).squeeze(-1), rows.get(("next", "episode_return")).squeeze(-1)
    reward = rows.get(("next", "reward")).squeeze(-1)
    starts = torch.cat([torch.ones_like(end[:, :1]), (end | done)[:, :-1]], 1)
    steps, returns = torch.zeros_like(reward[:, 0]), torch.zeros_like(reward[:, 0])
    for t in range(rows.shape[1]):
        steps = steps.masked_fill(starts[:, t], 0) + 1
        returns = returns.masked_fill(starts[:, t], 0) + reward[:, t]
        if not torch.equal(steps.long(), length[:, t].long()):
            return Finding("trials", f"episode_length is {length[:, t].tolist()} at step {t}; must be {steps.tolist()}")
        if not torch.allclose(returns, total[:, t], rtol=1e-3, atol=1e-3):
            return Finding(
                "trials", f"episode_return is {total[:, t].tolist()} at step {t}; must be {returns.tolist()}"
            )
    return Finding(
        "trials", note=f"{int(done.sum())} trials and {int(end.sum())} episodes ended in {done.numel()} steps"
    )


def _check_seeds(env: EnvBase, actions: list[torch.Tensor], first: TensorDictBase) -> Finding:
    differing = _differing(first, _rollout(env, actions, seed=1))
    if differing:
        return Finding(
            "seeds",
            f"the same seed gave another {differing}; draw every random number from what reset(seed=...) seeds "
            f"(Gymnasium: self.np_random)",
        )
    if not _differing(first, _rollout(env, actions, seed=2)):
        return Finding("seeds", note="repeatable; nothing is random, as other seeds give the same")
    return Finding("seeds", note="the same seed gives the same steps, another gives others")


def _check_partial_reset(env: EnvBase, actions: list[torch.Tensor]) -> Finding:
    """Step on after some rows were reset; the others must go on as if nothing had happened."""
    name = "partial reset"
    untouched, reset = _steps_around_reset(env, actions, resets=False), _steps_around_reset(env, actions, resets=True)
    if untouched is None or reset is None:
        return Finding(name, note="not looked at, as trials are too short")
    kept = torch.arange(_ROWS) % 2 == 1
    differing = _differing(untouched[kept], reset[kept])
    if differing:
        return Finding(
            name, f"resetting some rows changed {differing!r} of others; reset only the rows where '_reset' is true"
        )
    length = reset["episode_length"][~kept, 0]
    if (length != 1).any():
        return Finding(name, f"episode_length is {length.flatten().tolist()} one step after rows were reset; must be 1")
    return Finding(name, note="touches only the rows it names")


def _steps_around_reset(env: EnvBase, actions: list[torch.Tensor], *, resets: bool) -> TensorDictBase | None:
    """Return what two steps gave, ``[N, 2]``, after a first one and, if wanted, a reset of every other row.

    None if a trial ended before, which resets rows by itself.
    """
    env.set_seed(1)
    torch.manual_seed(1)
    td, steps = env.reset(), []
    for number in range(3):
        after = env.step(td.set("action", actions[number]))
        if after["next", "done"].any() and number < 2:
            return None
        td = env.step_mdp(after)
        if number == 0:
            if resets:
                rows = torch.arange(_ROWS, device=td.device).view(-1, 1) % 2 == 0
                td = env.reset(td.set("_reset", rows))
        else:
            steps.append(after["next"])
    return torch.stack(steps, 1)


def _check_neighbours(config: DictConfig, actions: list[torch.Tensor], first: TensorDictBase) -> Finding:
    env = _build(config, 2, 0)
    try:
        differing = _differing(first[:2], _rollout(env, [action[:2] for action in actions], seed=1))
    finally:
        env.close()
    if differing:
        return Finding("neighbours", f"{differing} depends on how many environments run beside; give each its own seed")
    return Finding("neighbours", note="what a row meets does not depend on how many run beside it")


def _measure(config: DictConfig) -> Finding:
    n_envs = config.collector.n_envs
    env = _build(config, n_envs, 0)
    try:
        td, seconds, steps = env.reset(), 0.0, 0
        while seconds < 1.0 and steps < 1000:
            td = env.rand_action(td)
            start = time.perf_counter()
            _, td = env.step_and_maybe_reset(td)
            seconds, steps = seconds + time.perf_counter() - start, steps + 1
    finally:
        env.close()
    return Finding(
        "speed", note=f"{steps * n_envs / seconds:,.0f} steps/s with collector.n_envs={n_envs}, without a policy"
    )


def _differing(a: TensorDictBase, b: TensorDictBase) -> str | None:
    """Return the name of an entry that differs, None if there is none."""
    for key in sorted(set(a.keys(True, True)) & set(b.keys(True, True)), key=str):
        if not torch.equal(a.get(key), b.get(key)):
            return key if isinstance(key, str) else key[-1]
    return None
