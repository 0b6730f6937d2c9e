"""Checks that an environment keeps the contract training relies on, with plain messages where it does not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import torch
from omegaconf import DictConfig
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, MultiCategorical, TensorSpec
from torchrl.envs import EnvBase, check_env_specs

from memo_lightning.data.trial_record import successes
from memo_lightning.envs.build import build_env, in_this_process
from memo_lightning.envs.global_streams import noticing_changes
from memo_lightning.envs.interface import interface_of
from memo_lightning.envs.reports import REPORTS
from memo_lightning.errors import UserError
from memo_lightning.findings import Finding
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import OBSERVATION, name_of
from memo_lightning.training.parts import build_parts

_N_ENVS = 4
_STEPS = 400  # the most steps that a check takes


def check_env(config: DictConfig) -> Iterator[Finding]:
    """Yield the findings of the checks of ``config.env``, one at a time.

    Args:
        config: a configuration of ``memo train``.

    Raises:
        UserError: if the environment or a policy for it cannot be built.
    """
    env = _build_env(config, _N_ENVS)
    try:
        interface = interface_of(env)
        yield Finding("observation", note=", ".join(f"{key.name}: {key.description}" for key in interface.keys))
        masked = ", some of them masked" if interface.action.masked else ""
        yield Finding("action", note=f"{_describe_action(env.action_spec)}{masked}")
        missing = [name for name in (*REPORTS, "done", "reward") if name not in _reported(env)]
        if missing:
            yield Finding("reports", f"lacks {', '.join(missing)}; see docs/how-to/own-environment.md")
            return
        steps = min(_STEPS, config.env.trial_length + 5)
        actions = _draw_actions(env, steps)
        try:
            with noticing_changes() as changed:
                first = _rollout(env, actions, seed=1)
        except UserError as error:
            yield Finding("steps", str(error))
            return
        yield _check_values(env, first)
        yield _check_global_streams(config, changed)
        yield _check_specs(env)
        yield _check_trials(first, config.env.trial_length)
        yield _check_seeds(env, actions, first)
        yield _check_partial_reset(env, actions)
    finally:
        env.close()
    yield _check_neighbours(config, actions, first)
    yield _check_training(config)
    yield _measure(config)


def _build_env(config: DictConfig, n_envs: int) -> EnvBase:
    """Build a few environments, in this process where possible, so that their side effects on it can be seen."""
    return build_env(config.env, n_envs, 0, **in_this_process(config.env, n_envs))


def _reported(env: EnvBase) -> set[str]:
    return {*env.observation_spec.keys(), *env.full_done_spec.keys(), *env.full_reward_spec.keys()}


def _describe_action(spec: TensorSpec) -> str:
    if isinstance(spec, MultiCategorical):
        return f"{spec.shape[-1]} discrete actions"
    if isinstance(spec, Categorical):
        return f"one of {spec.n}"
    return f"{list(spec.shape[1:])} numbers within bounds"


def _draw_actions(env: EnvBase, n_steps: int) -> list[Tensor]:
    """Draw actions for every step or, if actions are masked, numbers from 0 to 1 by which to choose allowed ones."""
    if ACTION_MASK in env.observation_spec.keys():
        return [torch.rand(*env.batch_size, env.observation_spec[ACTION_MASK].shape[-1]) for _ in range(n_steps)]
    return [env.action_spec.rand() for _ in range(n_steps)]


def _with_action(env: EnvBase, td: TensorDictBase, drawn: Tensor) -> TensorDictBase:
    """Set the action of a step to the one drawn or, if actions are masked, the allowed one with the highest number."""
    mask = td.get(ACTION_MASK, None)
    if mask is None:
        return td.set("action", drawn)
    scores = drawn.to(mask.device).masked_fill(~mask, -1.0)
    spec = env.action_spec
    if not isinstance(spec, MultiCategorical):
        return td.set("action", scores.argmax(-1))
    sizes = spec.nvec.reshape(-1, spec.nvec.shape[-1])[0].tolist()
    return td.set("action", torch.stack([part.argmax(-1) for part in scores.split(sizes, -1)], -1))


def _rollout(env: EnvBase, drawn: Sequence[Tensor], seed: int) -> TensorDictBase:
    """Return a rollout ``[N, T]`` with the given actions, after seeding."""
    env.set_seed(seed)
    torch.manual_seed(seed)
    taken = iter(drawn)
    return env.rollout(len(drawn), lambda td: _with_action(env, td, next(taken)), break_when_any_done=False)


def _check_specs(env: EnvBase) -> Finding:
    if ACTION_MASK in env.observation_spec.keys():
        return Finding("specs", note="skipped, as TorchRL's check takes actions that the mask forbids")
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    try:
        check_env_specs(env, seed=0)
    except Exception as error:  # whatever the environment or TorchRL's assertions raise
        return Finding("specs", f"steps do not match the specs: {' '.join(str(error).split())[:300] or repr(error)}")
    return Finding("specs", note="shapes and dtypes of resets and steps match the specs")


def _check_values(env: EnvBase, steps: TensorDictBase) -> Finding:
    """Check every number of every step ``[N, T]``, and of the reset observation before them."""
    largest = 0.0
    observed: list[tuple[NestedKey, TensorSpec]] = [
        ((OBSERVATION, name), spec) for name, spec in env.observation_spec[OBSERVATION].items()
    ]
    for key, spec in (*observed, ("reward", env.reward_spec)):
        value = steps.get(("next", *key) if isinstance(key, tuple) else ("next", key))
        if key != "reward":
            value = torch.cat([steps.get(key)[:, :1], value], 1)  # [N, T + 1], the reset's observation first
        wrong = ~value.isfinite() | _is_outside(value, spec)
        if wrong.any():
            index, step, *rest = wrong.nonzero()[0].tolist()
            name = name_of(key)
            where = (
                f"the {name}" if key == "reward" else f"{name}{rest}" if len(rest) and value[0, 0].numel() > 1 else name
            )
            number = value[(index, step, *rest)].item()
            after = "the reset" if step == 0 and key != "reward" else f"step {step + (key == 'reward')}"
            advice = "" if key == "reward" else ": correct the space, or clip the value"
            return Finding(
                "values",
                f"{where} is {number:g} after {after} in environment {index}; must be {_allowed(spec, rest)}{advice}",
            )
        if key != "reward":
            largest = max(largest, float(value.float().abs().max()))
    return Finding("values", note=f"finite and within their spaces; the largest is {largest:.3g}")


def _is_outside(value: Tensor, spec: TensorSpec) -> Tensor:
    """Return where ``value [N, T, ..]`` lies outside the bounds of ``spec [N, ..]``."""
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


def _check_global_streams(config: DictConfig, changed: set[str]) -> Finding:
    name = "random numbers"
    if in_this_process(config.env, _N_ENVS).get("workers"):
        return Finding(name, note="not checked, as every environment has its own process")
    if not changed:
        return Finding(name, note="resets and steps do not seed or draw from the global random numbers")
    return Finding(
        name,
        f"a reset or step seeds or draws from the global random numbers of {' and '.join(sorted(changed))}, so "
        f"environments in one process affect each other; use a generator per environment (Gymnasium: self.np_random)",
    )


def _check_trials(steps: TensorDictBase, trial_length: int) -> Finding:
    done, end = steps.get(("next", "done")).squeeze(-1), steps.get(("next", "episode_end")).squeeze(-1)
    if len(done[0]) >= trial_length and not done[:, :trial_length].any(1).all():
        return Finding("trials", f"no trial ended ('done') within env.trial_length={trial_length} steps")
    length, total = (steps.get(("next", name)).squeeze(-1) for name in ("episode_length", "episode_return"))
    reward = steps.get(("next", "reward")).squeeze(-1)
    starts = torch.cat([torch.ones_like(end[:, :1]), (end | done)[:, :-1]], 1)
    n_steps, returns = torch.zeros_like(reward[:, 0]), torch.zeros_like(reward[:, 0])
    for t in range(steps.shape[1]):
        n_steps = n_steps.masked_fill(starts[:, t], 0) + 1
        returns = returns.masked_fill(starts[:, t], 0) + reward[:, t]
        if not torch.equal(n_steps.long(), length[:, t].long()):
            said = length[:, t].tolist()
            return Finding("trials", f"episode_length is {said} at step {t}; must be {n_steps.long().tolist()}")
        if not torch.allclose(returns, total[:, t], rtol=1e-3, atol=1e-3):
            said = total[:, t].tolist()
            return Finding("trials", f"episode_return is {said} at step {t}; must be {returns.tolist()}")
    note = f"{int(done.sum())} trials and {int(end.sum())} episodes ended in {done.numel()} steps"
    if end.any() and successes(steps) is None:
        note += "; success is never reported, so results lack it; report it, or set env.success_return for Gymnasium"
    return Finding("trials", note=note)


def _check_seeds(env: EnvBase, actions: list[Tensor], first: TensorDictBase) -> Finding:
    differing = _differing(first, _rollout(env, actions, seed=1))
    if differing:
        return Finding(
            "seeds",
            f"the same seed gave a different {differing}; draw every random number from the generator that "
            f"reset(seed=...) seeds (Gymnasium: self.np_random)",
        )
    if not _differing(first, _rollout(env, actions, seed=2)):
        return Finding("seeds", note="repeatable, but nothing is random: another seed gives the same steps")
    return Finding("seeds", note="the same seed gives the same steps, another seed gives different ones")


def _check_partial_reset(env: EnvBase, actions: list[Tensor]) -> Finding:
    """Check that environments continue as if nothing had happened when others are reset."""
    name = "partial reset"
    untouched, reset = _steps_around_reset(env, actions, resets=False), _steps_around_reset(env, actions, resets=True)
    if untouched is None or reset is None:
        return Finding(name, note="not checked: trials are too short")
    kept = torch.arange(_N_ENVS) % 2 == 1
    differing = _differing(untouched[kept], reset[kept])
    if differing:
        return Finding(
            name,
            f"resetting some environments changed {differing!r} of others; reset only those where '_reset' is true",
        )
    length = reset["episode_length"][~kept, 0]
    if (length != 1).any():
        return Finding(name, f"episode_length is {length.flatten().tolist()} one step after a reset; must be 1")
    return Finding(name, note="affects only the environments that are reset")


def _steps_around_reset(env: EnvBase, actions: list[Tensor], *, resets: bool) -> TensorDictBase | None:
    """Return two steps ``[N, 2]`` that follow a first step and, if ``resets``, a reset of every other environment.

    None if a trial ends before the last step, since a reset follows anyway.
    """
    env.set_seed(1)
    torch.manual_seed(1)
    td, steps = env.reset(), []
    for number in range(3):
        after = env.step(_with_action(env, td, actions[number]))
        if after["next", "done"].any() and number < 2:
            return None
        td = env.step_mdp(after)
        if number == 0:
            if resets:
                which = torch.arange(_N_ENVS, device=td.device).view(-1, 1) % 2 == 0
                td = env.reset(td.set("_reset", which))
        else:
            steps.append(after["next"])
    return torch.stack(steps, 1)


def _check_neighbours(config: DictConfig, actions: list[Tensor], first: TensorDictBase) -> Finding:
    env = _build_env(config, 2)
    try:
        differing = _differing(first[:2], _rollout(env, [action[:2] for action in actions], seed=1))
    finally:
        env.close()
    if differing:
        return Finding("neighbours", f"{differing} depends on the number of environments; seed each one separately")
    return Finding("neighbours", note="environments behave the same, however many there are")


def _check_training(config: DictConfig) -> Finding:
    """Build what training would build; this rejects whatever does not fit the environment."""
    try:
        parts = build_parts(config)
    except UserError as error:
        return Finding("training", str(error))
    parts.data.env.close()
    n_parameters = sum(p.numel() for module in (parts.policy.encoder, parts.model) for p in module.parameters())
    what = f"{type(parts.model).__name__} and encoder have {n_parameters:,} parameters"
    return Finding("training", note="; ".join([what, *parts.remarks]))


def _measure(config: DictConfig) -> Finding:
    n_envs = config.collector.n_envs
    env = build_env(config.env, n_envs, 0)
    try:
        td, seconds, steps = env.reset(), 0.0, 0
        drawn = _draw_actions(env, 1)[0]
        while seconds < 1.0 and steps < 1000:
            td = _with_action(env, td, drawn)
            start = time.perf_counter()
            _, td = env.step_and_maybe_reset(td)
            seconds, steps = seconds + time.perf_counter() - start, steps + 1
    finally:
        env.close()
    return Finding(
        "speed", note=f"{steps * n_envs / seconds:,.0f} steps/s with collector.n_envs={n_envs}, without a policy"
    )


def _differing(a: TensorDictBase, b: TensorDictBase) -> str | None:
    """Return the name of a key whose values differ, or None if there is none."""
    for key in sorted(set(a.keys(True, True)) & set(b.keys(True, True)), key=str):
        if not torch.equal(a.get(key), b.get(key)):
            return name_of(key)
    return None
