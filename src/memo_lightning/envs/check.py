"""Checking that an environment keeps the contract that training relies on, and saying in words where it does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.data import Categorical, MultiCategorical, TensorSpec
from torchrl.envs import EnvBase, check_env_specs

from memo_lightning.envs.build import build_env
from memo_lightning.envs.trial_env import REPORTS
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
        yield _check_specs(env)
        policy = build_policy(config, env)
        yield Finding("policy", note=f"{sum(p.numel() for p in policy.parameters()):,} parameters")
        steps = min(_STEPS, config.env.trial_length + 5)
        actions = [env.action_spec.rand() for _ in range(steps)]
        first = _rollout(env, actions, seed=1)
        yield _check_finite(env, first)
        yield _check_trials(first, config.env.trial_length)
        yield _check_seeds(env, actions, first)
        yield _check_partial_reset(env)
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
        if name not in (*REPORTS, "is_init"):
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


def _check_finite(env: EnvBase, rows: TensorDictBase) -> Finding:
    for name in (*env.observation_spec.keys(), "reward"):
        value = rows.get(("next", name))
        if not value.isfinite().all():
            return Finding("values", f"{name!r} is not finite at step {int((~value.isfinite()).nonzero()[0, 1])}")
        if name != "reward" and not env.observation_spec[name].is_in(value[:, 0]):
            return Finding("values", f"{name!r} leaves the bounds of its space; correct the space, or clip the value")
    largest = max(
        float(rows.get(("next", n)).float().abs().max()) for n in env.observation_spec.keys() if n not in REPORTS
    )
    return Finding("values", note=f"finite and within their spaces; the largest is {largest:.3g}")


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


def _check_partial_reset(env: EnvBase) -> Finding:
    td = env.step(env.rand_action(env.reset()))["next"]
    rows = torch.arange(_ROWS, device=td.device).view(-1, 1) % 2 == 0
    before = td.select(*env.observation_spec.keys()).clone()
    after = env.reset(td.set("_reset", rows))
    kept = ~rows.squeeze(-1)
    for name in before.keys():
        if name != "is_init" and name not in REPORTS and not torch.equal(before.get(name)[kept], after.get(name)[kept]):
            return Finding("partial reset", f"resetting some rows changed {name!r} of others")
    return Finding("partial reset", note="touches only the rows it names")


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
        while seconds < 2.0 and steps < 1000:
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
