"""``env=custom env.target=my.module:make_env``: a user's own Gymnasium or TorchRL environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, TensorSpec
from torchrl.envs import Compose, EnvBase, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.transforms import Transform

from memo_lightning.construct import construct, resolve
from memo_lightning.envs.failures import named, within
from memo_lightning.envs.global_streams import GlobalStreams
from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.reports import FINAL_OBSERVATION, MEASURES, REPORTS, SUCCESS, SUCCESS_REPORTED, TRUNCATED
from memo_lightning.envs.trial_env import SPLITS, seed_of_split
from memo_lightning.errors import UserError, require
from memo_lightning.policies.action import ACTION_MASK
from memo_lightning.policies.encoders import OBSERVATION


def make_custom_env(
    *,
    n_envs: int,
    target: str | None,
    settings: dict[str, Any],
    trial_length: int,
    images: Mapping[str, str] | None = None,
    time_limit_is_end: bool = False,
    split: str = "train",
    step_timeout: float = 20.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **gymnasium_settings: Any,
) -> EnvBase:
    """Return N environments made by ``target(**settings)``.

    The target makes one Gymnasium environment, or one TorchRL environment without batch size, and is then called N
    times; or, if it takes ``n_envs``, it makes a batched TorchRL environment. If it takes ``split`` or
    ``trial_length``, it is given these, too. A TorchRL environment that reports ``episode_end`` must take
    ``trial_length`` and follow the contract of :class:`~memo_lightning.envs.trial_env.TrialEnv` itself, except that
    its observations may have any keys. For any other TorchRL environment, each episode is a trial, cut off after
    ``trial_length`` steps.

    Args:
        n_envs: number of environments N.
        target: dotted path of a function or class, ``my.module:make_env``.
        settings: arguments of the target.
        trial_length: steps after which a trial ends.
        images: image layouts by observation key, for Gymnasium environments; see
            :class:`~memo_lightning.policies.observation_keys.ObservationKey`.
        time_limit_is_end: whether a step limit truly ends an episode; see
            :class:`~memo_lightning.envs.gymnasium.trial_runner.TrialRules`.
        split: ``"train"``, ``"held_out"`` or ``"all"``: environments get even, odd or any seeds.
        step_timeout: seconds that a step or reset may take.
        seed: seed of all random streams.
        device: device of the tensors.
        gymnasium_settings: further arguments of :class:`GymnasiumEnv`, for Gymnasium environments only.

    Raises:
        UserError: if the target cannot be imported or makes something else; or if the environment, now or later,
            returns something that does not match its specs.
        EnvironmentFailure: if the target or the environment raises anything else or hangs, now or later.
    """
    if "id" in gymnasium_settings:
        raise UserError(
            f"env.id={gymnasium_settings['id']}: env.target makes the environment here; for a registered one, use "
            f"env=gymnasium env.id={gymnasium_settings['id']}"
        )
    if not target:
        raise UserError(
            "env.target=null: must be the path of a function that makes an environment, e.g. "
            "env.target=my.module:make_env"
        )
    function = resolve("env.target", target)
    require(callable(function), "env.target", target, "a function or class that makes an environment")
    require(step_timeout > 0, "env.step_timeout", step_timeout, "greater than 0")
    require(trial_length >= 1, "env.trial_length", trial_length, "at least 1")
    require(split in SPLITS, "env.split", split, f"one of {', '.join(SPLITS)}")
    ours = {"n_envs": n_envs, "split": split, "trial_length": trial_length}
    settings, make = _bind(function, target, ours, settings)
    with named(f"env.target={target}", also_mistakes=False):
        made = make()
    if isinstance(made, gymnasium.Env):
        made.close()
        return construct(
            GymnasiumEnv,
            n_envs=n_envs,
            make=make,
            trial_length=trial_length,
            images=images,
            time_limit_is_end=time_limit_is_end,
            split=split,
            step_timeout=step_timeout,
            seed=seed,
            device=device,
            **gymnasium_settings,
        )
    if not isinstance(made, EnvBase):
        raise UserError(
            f"env.target={target}: made a {type(made).__name__}; must make a gymnasium.Env or a TorchRL EnvBase"
        )
    _refuse_gymnasium_settings(gymnasium_settings, target)
    if images:
        raise UserError(
            f"env.images={dict(images)}: only for Gymnasium environments; images of TorchRL's must be [H, W, C]"
        )
    if isinstance(_base(made), BatchedEnvBase):
        raise UserError(
            f"env.target={target}: made a {type(_base(made)).__name__}; must make one environment without batch size, "
            f"which is then made {n_envs} times, so it must not take n_envs"
        )
    reports = tuple(getattr(_base(made), "reports", ()))
    batch = _batch(made, make, target, n_envs, step_timeout, split)
    env = _with_trials(batch.to(device), target, trial_length, "trial_length" in settings, time_limit_is_end, reports)
    env.set_seed(seed)
    return env


def _bind(
    function: Callable[..., Any], target: str, ours: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Return a target's arguments (``settings``, and those of ``ours`` that it takes) and the call with them."""
    # For a class, __init__ is inspected: TorchRL's metaclass hides the signature of the call.
    signature = inspect.signature(function.__init__ if inspect.isclass(function) else function)
    arguments = {**{name: value for name, value in ours.items() if name in signature.parameters}, **settings}
    try:
        signature.bind(*([None] if inspect.isclass(function) else []), **arguments)
    except TypeError as error:
        raise UserError(f"env.target={target}: {error} (env.settings={arguments})") from None
    return arguments, partial(function, **arguments)


def _base(env: EnvBase) -> EnvBase:
    """Return an environment without its transforms, which is the one that TorchRL steps, resets and seeds."""
    return env.base_env if isinstance(env, TransformedEnv) else env


def _batch(
    made: EnvBase, make: Callable[[], EnvBase], target: str, n_envs: int, step_timeout: float, split: str
) -> EnvBase:
    """Return a guarded batch of N environments: the one that was ``made``, or N that ``make`` makes one by one."""
    if made.batch_size:
        _guard(_base(made), f"env.target={target}", step_timeout, split)
    else:
        made.close()
        numbers = range(n_envs)
        made = SerialEnv(n_envs, [partial(_make_one, make, target, number, step_timeout, split) for number in numbers])
    if made.batch_size != (n_envs,):
        raise UserError(
            f"env.target={target}: made an environment of batch size {tuple(made.batch_size)}; must be () or, if it "
            f"takes the argument n_envs={n_envs}, ({n_envs},)"
        )
    return made


def _with_trials(
    env: EnvBase, target: str, trial_length: int, takes_length: bool, time_limit_is_end: bool, reports: tuple[str, ...]
) -> EnvBase:
    """Return an environment whose episodes are trials, unless it defines trials itself, with nested observations."""
    transforms: list[Transform] = []
    if "episode_end" in env.observation_spec.keys():
        _check_own_trials(target, takes_length, time_limit_is_end)
    else:
        transforms = [
            StepCounter(max_steps=trial_length, step_count_key="episode_length"),
            RewardSum(["reward"], ["episode_return"]),
            EpisodeIsTrial(time_limit_is_end=time_limit_is_end),
        ]
    env = TransformedEnv(env, Compose(*transforms, NestObservations(reports)))
    missing = [name for name in REPORTS if name not in env.observation_spec.keys()]
    if missing:
        raise UserError(f"env.target={target}: reports episode_end, so it must also report {', '.join(missing)}")
    return env


def _check_own_trials(target: str, takes_length: bool, time_limit_is_end: bool) -> None:
    """Raise :class:`UserError` if an environment that defines its trials itself would not follow a setting."""
    if not takes_length:
        raise UserError(
            f"env.target={target}: reports episode_end, so it must take the argument trial_length, the steps of a trial"
        )
    allowed = f"false, as env.target={target} reports episode_end, and must say itself which steps are truncated"
    require(not time_limit_is_end, "env.time_limit_is_end", time_limit_is_end, allowed)


def _refuse_gymnasium_settings(settings: Mapping[str, Any], target: str) -> None:
    """Raise :class:`UserError` for unknown settings, and for Gymnasium-only settings that are not at their defaults."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(GymnasiumEnv.__init__).parameters.items()
    }
    for name, value in settings.items():
        if name not in defaults:
            raise UserError(f"env.{name}: no such setting; set arguments of env.target with env.settings.NAME=VALUE")
        default = defaults[name]
        if value != default and (value, default) != ([], ()):
            raise UserError(
                f"env.{name}={value}: only for Gymnasium environments; env.target={target} makes a TorchRL "
                f"environment, which must handle this itself; leave it out"
            )


def _make_one(make: Callable[[], EnvBase], target: str, number: int, step_timeout: float, split: str) -> EnvBase:
    name = f"env.target={target}, environment {number}"
    with named(name):
        env = make()
    _guard(_base(env), name, step_timeout, split)
    return env


def _guard(env: EnvBase, name: str, step_timeout: float, split: str) -> None:
    """Make an environment name its errors, fail if it hangs, and check what it returns against its specs.

    It is seeded within the split and has its own global random numbers.
    """
    step, reset, set_seed = env._step, env._reset, env._set_seed
    streams = GlobalStreams(draws_from_torch=True)

    def guarded_set_seed(seed: int | None) -> None:
        seed = seed_of_split((seed or 0,), split)
        streams.seed(seed)
        with streams.in_use(), named(name):
            set_seed(seed)

    def guarded_step(tensordict: TensorDictBase) -> TensorDictBase:
        with within(step_timeout, name), named(name), streams.in_use():
            after = step(tensordict)
            _check(after, "a step", env.full_observation_spec, env.full_done_spec, env.full_reward_spec)
        return after

    def guarded_reset(tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        with within(step_timeout, name), named(name), streams.in_use():
            after = reset(tensordict, **kwargs)
            _check(after, "a reset", env.full_observation_spec)
        return after

    env._step, env._reset, env._set_seed = guarded_step, guarded_reset, guarded_set_seed


def _check(returned: TensorDictBase, kind: str, *specs: Composite) -> None:
    """Raise :class:`UserError` if a value is missing or its shape or dtype differs from its spec."""
    for spec in specs:
        for key, entry in spec.items(True, True):
            name = key if isinstance(key, str) else ".".join(key)
            value = returned.get(key, None)
            if value is None:
                if name in ("truncated", "terminated"):
                    continue  # TorchRL adds them
                raise UserError(f"{kind} returned no {name!r}, which its spec declares")
            # TorchRL accepts rewards without the last dimension, which is 1.
            same_shape = value.shape == entry.shape or (name == "reward" and value.numel() == entry.shape.numel())
            if not same_shape:
                raise UserError(
                    f"{kind} returned {name!r} of shape {tuple(value.shape)}; its spec says {tuple(entry.shape)}"
                )
            if value.dtype != entry.dtype:
                raise UserError(f"{kind} returned {name!r} of dtype {value.dtype}; its spec says {entry.dtype}")


class EpisodeIsTrial(Transform):
    """Transform that reports each episode as a trial: ``episode_end`` is ``done``, and truncated episodes are flagged.

    Args:
        time_limit_is_end: whether truncation truly ends an episode, e.g. because the remaining time is observed.
    """

    def __init__(self, *, time_limit_is_end: bool) -> None:
        self._time_limit_is_end = time_limit_is_end
        super().__init__(in_keys=["done"], out_keys=["episode_end", TRUNCATED])

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        done, terminated = next_tensordict.get("done"), next_tensordict.get("terminated")
        cut_off = torch.zeros_like(done) if self._time_limit_is_end else done & ~terminated
        return self._report(next_tensordict, done.clone(), cut_off)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        nothing = torch.zeros_like(tensordict_reset.get("done"))
        return self._report(tensordict_reset, nothing, nothing.clone())

    def _report(self, tensordict: TensorDictBase, end: torch.Tensor, cut_off: torch.Tensor) -> TensorDictBase:
        tensordict.set("episode_end", end)
        tensordict.set(TRUNCATED, cut_off)
        return tensordict

    def transform_observation_spec(self, observation_spec: Any) -> TensorSpec:
        """Add the specs of the reports."""
        shape = (*self.parent.batch_size, 1)
        for name in self.out_keys:
            if name not in observation_spec.keys():
                observation_spec[name] = Binary(n=1, shape=shape, dtype=torch.bool, device=self.parent.device)
        return observation_spec


class NestObservations(Transform):
    """Transform that nests observations under ``observation``, where the user's names cannot clash with ours.

    Everything that is not a report is an observation. Nested keys are joined with underscores.

    Args:
        reports: further keys that report on the trial and are not observed.
    """

    def __init__(self, reports: Sequence[str] = ()) -> None:
        super().__init__()
        self._reports = {*REPORTS, SUCCESS, SUCCESS_REPORTED, TRUNCATED, FINAL_OBSERVATION, MEASURES, ACTION_MASK}
        self._reports |= set(reports)
        self._names: dict[NestedKey, str] = {}

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        # Pop everything first: the environment may have a key `observation` itself.
        values = {name: next_tensordict.pop(key) for key, name in self._names.items()}
        return next_tensordict.set(OBSERVATION, TensorDict(values, next_tensordict.batch_size))

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Any) -> TensorSpec:
        """Nest the specs of the observations."""
        leaves = [key for key in observation_spec.keys(True, True) if _first(key) not in self._reports]
        self._names = {key: key if isinstance(key, str) else "_".join(key) for key in leaves}
        names = list(self._names.values())
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"observation {name!r}: two keys have this name; rename one with a transform")
        specs = {name: observation_spec[key] for key, name in self._names.items()}
        kept = {name: observation_spec[name] for name in observation_spec.keys() if name in self._reports}
        shape, device = observation_spec.shape, observation_spec.device
        return Composite(
            {**kept, OBSERVATION: Composite(specs, shape=shape, device=device)}, shape=shape, device=device
        )


def _first(key: NestedKey) -> str:
    return key if isinstance(key, str) else key[0]
