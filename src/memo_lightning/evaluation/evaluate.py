"""Evaluation of a trained policy, by default on tasks that training never drew."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torchrl.envs import EnvBase
from tqdm import tqdm

from memo_lightning.callbacks.progress import bar_class
from memo_lightning.config import check_type, plain_leaves
from memo_lightning.data.trial_record import TrialRecord
from memo_lightning.envs.build import build_env, in_this_process, observes_reward
from memo_lightning.envs.interface import interface_of
from memo_lightning.envs.trust import foreign_code
from memo_lightning.errors import UserError, require
from memo_lightning.evaluation.colours import memory_colour
from memo_lightning.evaluation.in_context import (
    bin_steps_that_fit,
    by_episode,
    by_steps,
    estimate_mean,
    mean_over_episodes,
)
from memo_lightning.evaluation.inspector.packing import MAX_STEPS
from memo_lightning.evaluation.inspector.page import write_page
from memo_lightning.evaluation.inspector.recording import recorded_trial
from memo_lightning.evaluation.memory_views import view_memory
from memo_lightning.evaluation.plots import plot_in_context_curve, plot_summary_attention
from memo_lightning.evaluation.trials import N_BINS, FirstTrial, acting, run_trials
from memo_lightning.evaluation.video import record_trial
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import Agent, Interface, MemoryPolicy
from memo_lightning.policies.loading import MODELS, default_folder, is_shared, load
from memo_lightning.policies.package import CURVE, EVALUATION, VIDEO
from memo_lightning.tracking import describe_store, environment_name, memory_name, resolve_store
from memo_lightning.tracking.evaluations import log_evaluation
from memo_lightning.tracking.store import no_store_of_run, store_of_run
from memo_lightning.wording import listed

_ATTENTION, _PAGE = "summary_attention.png", "trial.html"
_FULL_MEMORY = "full memory"  # label of trials in which nothing is dropped from memory


def evaluate(config: DictConfig, announce: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Evaluate a trained policy with the settings of ``conf/evaluate.yaml`` and its overrides.

    The metrics, plots and, with ``render``, a page and a video of one trial are written to ``run_dir``. They are also
    added to the MLflow run of the training, if it is found.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`. Updated in place: ``run_dir``
            and ``bin_steps`` become the values in use, and ``tracking_uri`` the store of the training's run, or None.
        announce: called with a line that says what will be run and where results go, once the policy and the
            environment are ready.

    Returns:
        The metrics, as in ``evaluation.json``.

    Raises:
        UserError: if a setting is wrong or the checkpoint cannot be used.
    """
    _check_settings(config)
    agent = load(config.checkpoint, config.device, tracking_uri=config.tracking_uri, model=dict(config.model))
    training = agent.training
    if is_shared(config.checkpoint) and not config.trust_env and (named := foreign_code(training["config"]["env"])):
        raise UserError(
            f"checkpoint={config.checkpoint}: its environment would run code that is not part of memo-lightning: "
            f"{listed(named)}; if you trust it, add trust_env=true"
        )
    run_dir = Path(config.run_dir or default_folder(config.checkpoint, "evaluation"))
    config.run_dir = str(run_dir)
    env_config = _env_config(config, training["config"]["env"])
    records, first = _run(config, env_config, agent, announce)
    config.bin_steps = config.bin_steps or bin_steps_that_fit([*records.values()], env_config.get("episode_length"))

    metrics = _all_metrics(config, env_config, agent, records)
    memory = memory_name(training["config"])
    what, colour = f"{memory} on {environment_name(training['config'])}", memory_colour(memory)
    title = f"{what}: {metrics['n_trials']} trials of {config.split} tasks"
    curve = run_dir / CURVE
    plot_in_context_curve(records, curve, title, colour, config.bin_steps)
    files = [curve, *_plot_attention(config, agent.policy, first, run_dir / _ATTENTION, what, colour)]
    if config.render:
        page_title = f"{what}, a trial of {config.split} tasks"
        files += _record(config, env_config, agent, run_dir, page_title, training["frames"])
    for name in (_ATTENTION, _PAGE, VIDEO):  # what an earlier evaluation has left would be taken for this one's
        if run_dir / name not in files:
            (run_dir / name).unlink(missing_ok=True)
    results = run_dir / EVALUATION
    metrics["files"] = [results.name, *(file.name for file in files)]
    results.write_text(json.dumps(metrics, indent=2) + "\n")
    config.tracking_uri = _log_to_mlflow(config, training, metrics, [results, *files])
    return metrics


def _check_settings(config: DictConfig) -> None:
    """Raise :class:`UserError` if a setting is wrong whatever the policy."""
    if not config.checkpoint:
        raise UserError(
            "checkpoint=null: must be the path of a checkpoint or of the folder of a run, e.g. checkpoint=runs/NAME"
        )
    for name in ("n_trials", "n_envs", "trial_multiplier", "render_steps"):
        require(config[name] >= 1, name, config[name], "at least 1")
    require(config.render_steps <= MAX_STEPS, "render_steps", config.render_steps, f"at most {MAX_STEPS:,}")
    require(config.bin_steps is None or config.bin_steps >= 1, "bin_steps", config.bin_steps, "at least 1, or null")


def _check_interface(trained: Interface, given: Interface, config: DictConfig) -> None:
    """Raise :class:`UserError` unless an environment has the interface that the policy was trained on."""
    if trained.as_plain() == given.as_plain():
        return
    changes = ", ".join(f"env.{name}={value}" for name, value in config.env.items()) or "the environment"
    for name, one, other in (
        ("observations", trained.observation_space, given.observation_space),
        ("actions", trained.action.space, given.action.space),
    ):
        if one != other:
            raise UserError(f"{changes}: {name} differ from those in training: {other}; must be {one}")
    raise UserError(f"{changes}: action mask, RL^2 inputs or env.images differ from those in training")


def _n_envs(config: DictConfig) -> int:
    """Return the number of environments, which is at most that of trials."""
    return min(config.n_envs, config.n_trials)


def _env_config(config: DictConfig, trained: dict[str, Any]) -> dict[str, Any]:
    """Return the environment's settings: those of training, with the requested changes."""
    for key in config.env:
        if key not in trained:
            raise UserError(f"env.{key}: the checkpoint's environment has no such setting; it has {', '.join(trained)}")
    known = dict(plain_leaves("env", trained))
    for key, value in plain_leaves("env", OmegaConf.to_container(config.env)):
        if value is not None:  # null may be a default
            check_type(key, value, known.get(key))
    # Setting one key of a group, e.g. env.dataset.n_houses, leaves its other keys as they are.
    merged = OmegaConf.merge(trained, config.env)
    settings: dict[str, Any] = {**OmegaConf.to_container(merged), "split": config.split}  # type: ignore[dict-item]
    for key in ("trial_length", "episodes_per_trial"):
        if settings.get(key) is not None:
            settings[key] *= config.trial_multiplier
    if settings.get("workers") and "workers" not in config.env:
        settings["workers"] = min(settings["workers"], _n_envs(config))  # training may have had more environments
    return settings


def _run(
    config: DictConfig, env_config: dict[str, Any], agent: Agent, announce: Callable[[str], object]
) -> tuple[dict[str, TrialRecord], FirstTrial]:
    """Run the trials.

    Returns:
        The trials by label, those with the memory's budget last, which may follow the same trials with the full memory;
        and the first trial of the last.
    """
    policy, length, n_envs = agent.policy, env_config["trial_length"], _n_envs(config)
    env = build_env(env_config, n_envs, config.seed)
    try:
        _check_interface(agent.spec.interface, interface_of(env, observes_reward=observes_reward(env_config)), config)
        budget = policy.sequence_model.memory_budget if config.memory_budget is None else config.memory_budget
        policy.set_memory_budget(budget)
        source = config.checkpoint
        if source.startswith(MODELS):
            source = f"{source} of {describe_store(config.tracking_uri)}"
        announce(
            f"evaluating {source}: {-(-config.n_trials // n_envs) * n_envs} trials of {config.split} tasks, "
            f"at most {length:,} steps each, {n_envs} at a time; writing to {config.run_dir}"
        )
        try:
            Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run_dir={config.run_dir}: must be writable ({error.strerror})") from None
        records = {}
        if config.memory_budget is not None and config.full_memory:
            policy.set_memory_budget(None)
            records[_FULL_MEMORY] = _run_trials(config, env, policy, length, _FULL_MEMORY)[0]
            policy.set_memory_budget(budget)
        label = _FULL_MEMORY if budget is None else f"newest {budget} tokens"
        records[label], first = _run_trials(config, env, policy, length, "evaluating")
    finally:
        env.close()
    return records, first


def _run_trials(
    config: DictConfig, env: EnvBase, policy: MemoryPolicy, length: int, label: str
) -> tuple[TrialRecord, FirstTrial]:
    """Run the trials, with a progress bar if they take more than a few seconds."""
    n_steps = length * -(-config.n_trials // env.batch_size[0])
    every = 0.5 if sys.stderr.isatty() else 30.0  # seconds
    with (
        (bar_class() or tqdm)(
            total=n_steps, desc=label, unit=" steps", unit_scale=True, delay=5, mininterval=every, leave=False
        ) as bar,
        acting(deterministic=config.deterministic),
    ):
        return run_trials(env, policy, config.n_trials, length, config.seed, bar.update)


def _plot_attention(
    config: DictConfig, policy: MemoryPolicy, first: FirstTrial, path: Path, what: str, colour: str
) -> list[Path]:
    """Plot the attention in the first trial, unless there are no summaries or the trial is too short to read one."""
    model = policy.sequence_model
    if type(model) is not MemoTransformer or len(first.inputs) <= model.segment_length:
        return []
    view = view_memory(model, first.inputs.unsqueeze(0))
    title = f"{what}: summaries in a trial of {config.split} tasks"
    if model.memory_budget is not None:
        title += f", newest {model.memory_budget} tokens kept"
    plot_summary_attention(view, first.ends, first.successes, path, title, colour)
    return [path]


def _record(
    config: DictConfig, env_config: dict[str, Any], agent: Agent, run_dir: Path, title: str, frames_trained: int
) -> list[Path]:
    """Write a video of a trial and a page to inspect it, using a separate environment."""
    page, video = run_dir / _PAGE, run_dir / VIDEO
    env = build_env(env_config, 1, config.seed, **in_this_process(env_config, 1))
    try:
        with (
            acting(deterministic=config.deterministic),
            recorded_trial(env, agent.policy, agent.spec.interface) as recording,
        ):
            n_frames = record_trial(env, agent.policy, video, max_steps=config.render_steps, look=recording.look)
    finally:
        env.close()
    actions = "most likely actions" if config.deterministic else "sampled actions"
    subtitle = f"{recording.n_steps:,} steps, {actions}; trained for {frames_trained:,} frames"
    write_page(page, title, subtitle, recording, type(agent.policy.sequence_model).__name__)
    if not n_frames:
        print("no trial.mp4: the environment cannot be rendered; trial.html shows the observations", file=sys.stderr)
    return [video, page] if n_frames else [page]


def _all_metrics(
    config: DictConfig, env_config: Mapping[str, Any], agent: Agent, records: Mapping[str, TrialRecord]
) -> dict[str, Any]:
    """Return the metrics of the last of ``records``, and how it came about."""
    training = agent.training
    metrics = {
        "checkpoint": config.checkpoint,
        "split": config.split,
        "deterministic": config.deterministic,
        "seed": config.seed,
        "n_envs": _n_envs(config),
        "env": OmegaConf.to_container(config.env),
        "model": OmegaConf.to_container(config.model),
        "frames_trained": training["frames"],
        "mlflow_run_id": training["mlflow_run_id"],
        "mlflow_experiment": (training["config"]["logger"] or {}).get("experiment_name"),
        "memory_budget": agent.policy.sequence_model.memory_budget,
        "trial_length": env_config["trial_length"],
        **_metrics([*records.values()][-1], config.bin_steps),
    }
    if len(records) > 1:
        metrics["full_memory"] = _metrics(records[_FULL_MEMORY], config.bin_steps)
    return metrics


def _metrics(record: TrialRecord, bin_steps: int) -> dict[str, Any]:
    returns = estimate_mean(record.returns[:, None])
    curve = estimate_mean(record.rewards)
    return {
        "n_trials": len(record.returns),
        "mean_trial_length": float(record.lengths.mean()),
        "return_per_trial": float(returns.mean[0]),
        "return_per_trial_interval": [float(returns.low[0]), float(returns.high[0])],
        "return_by_quarter": record.by_part(4).mean(0).tolist(),
        **mean_over_episodes(record),
        "in_context_curve": {
            "steps": ((np.arange(N_BINS) + 1) * record.lengths.mean() / N_BINS).tolist(),
            "reward": curve.mean.tolist(),
            "low": curve.low.tolist(),
            "high": curve.high.tolist(),
        },
        "by_episode": by_episode(record),
        "by_steps": by_steps(record, bin_steps),
    }


def _log_to_mlflow(
    config: DictConfig, training: Mapping[str, Any], metrics: dict[str, Any], files: list[Path]
) -> str | None:
    """Add the evaluation to the training's MLflow run; return the store that holds it now, or None."""
    run_id, logger = training["mlflow_run_id"], training["config"]["logger"]
    if run_id is None or not logger:
        return None
    if config.checkpoint.startswith(MODELS):
        store: str | None = resolve_store(config.tracking_uri)  # where the model was found
    else:
        store = store_of_run(logger["tracking_uri"], run_id, Path(config.checkpoint))
    if store is None:
        print(f"not logged to MLflow: {no_store_of_run(logger['tracking_uri'], run_id)}", file=sys.stderr)
        return None
    log_evaluation(store, run_id, metrics, files)
    return store
