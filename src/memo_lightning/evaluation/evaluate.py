"""Evaluating a checkpoint on trials, by default of tasks that training never drew."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from memo_lightning.envs.build import build_env
from memo_lightning.errors import UserError, require
from memo_lightning.evaluation.checkpoints import load_checkpoint, restore_policy
from memo_lightning.evaluation.in_context import TrialRecord, estimate_mean
from memo_lightning.evaluation.plots import plot_in_context_curve
from memo_lightning.evaluation.summary_attention import plot_summary_attention
from memo_lightning.evaluation.video import record_trial
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import MemoryPolicy
from memo_lightning.tracking import resolve_store
from memo_lightning.tracking.registry import PREFIX, fetch_checkpoint

N_BINS = 20


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run the evaluation that ``conf/evaluate.yaml`` and its overrides describe.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`; its ``run_dir`` is filled in.

    Returns:
        The figures of ``evaluation.json``.

    Raises:
        UserError: if a setting is wrong or the checkpoint cannot be used.
    """
    if not config.checkpoint:
        raise UserError(
            "checkpoint=null: must be the path of a checkpoint, e.g. checkpoint=<run_dir>/checkpoints/last.ckpt"
        )
    for name in ("n_trials", "n_envs", "trial_multiplier", "bin_steps"):
        require(config[name] >= 1, name, config[name], "at least 1")
    registered = config.checkpoint.startswith(PREFIX)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(config.checkpoint)
        if registered:
            path = fetch_checkpoint(resolve_store(config.tracking_uri), config.checkpoint, Path(folder))
        checkpoint = load_checkpoint(path)
    run_dir = Path(config.run_dir or (_folder_of_model(config) if registered else path.parents[1] / "evaluation"))
    config.run_dir = str(run_dir)

    env_config = _env_config(config, checkpoint["config"]["env"])
    env = build_env(env_config, min(config.n_envs, config.n_trials), config.seed)
    policy = restore_policy(checkpoint, dict(config.model), env)

    record, first_trial = _run_trials(config, env, policy, env_config["trial_length"], config.memory_budget)
    figures = {
        "checkpoint": config.checkpoint,
        "split": config.split,
        "deterministic": config.deterministic,
        "seed": config.seed,
        "frames_trained": checkpoint["frames"],
        "mlflow_run_id": checkpoint["mlflow_run_id"],
        "memory_budget": config.memory_budget,
        **_figures(record, config.bin_steps),
    }
    curves = {f"{config.split} tasks": record}
    if config.memory_budget is not None:  # the same trials with all of the memory, to hold it against
        full, _ = _run_trials(config, env, policy, env_config["trial_length"], None)
        figures["full_memory"] = _figures(full, config.bin_steps)
        curves = {f"newest {config.memory_budget} entries": record, "full memory": full}

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
    results, curve = run_dir / "evaluation.json", run_dir / "in_context_curve.png"
    results.write_text(json.dumps(figures, indent=2) + "\n")
    plot_in_context_curve(curves, curve, f"{config.checkpoint}: {len(record.returns)} trials of {config.split} tasks")
    files = [results, curve]
    model = policy.sequence_model
    if type(model) is MemoTransformer and env_config["trial_length"] > model.segment_length:
        files.append(run_dir / "summary_attention.png")
        plot_summary_attention(
            policy, first_trial, files[-1], f"{config.checkpoint}: summaries in a trial of {config.split} tasks"
        )
    if config.render:
        files.append(_record(config, env_config, policy, run_dir / "trial.mp4"))
    _log_to_mlflow(checkpoint, figures, files)
    return figures


def _folder_of_model(config: DictConfig) -> Path:
    """Return where the evaluation of a registered model goes: its checkpoint has no folder of its own."""
    return Path("runs") / re.sub(r"\W+", "-", config.checkpoint) / "evaluation"


def _env_config(config: DictConfig, trained: dict[str, Any]) -> dict[str, Any]:
    """Return the environment's settings: those it was trained with, and the changes that are asked for."""
    for key in config.env:
        if key not in trained:
            raise UserError(f"env.{key}: the checkpoint's environment has no such setting; it has {', '.join(trained)}")
    settings = {**trained, **config.env, "split": config.split}
    for key in ("trial_length", "episodes_per_trial"):
        if settings.get(key) is not None:
            settings[key] *= config.trial_multiplier
    return settings


@torch.no_grad()
def _run_trials(
    config: DictConfig, env: EnvBase, policy: MemoryPolicy, length: int, memory_budget: int | None
) -> tuple[TrialRecord, TensorDictBase]:
    """Run the evaluation's trials, the same ones whenever it is called, within a memory budget.

    Returns:
        What happened in all trials, and the steps ``[T]`` of the first.
    """
    try:
        policy.sequence_model.memory_budget = memory_budget
    except ValueError as error:
        raise UserError(str(error)) from None
    policy.forget()
    lightning.seed_everything(config.seed, verbose=False)
    env.set_seed(config.seed)
    rounds = -(-config.n_trials // env.batch_size[0])
    exploration = ExplorationType.DETERMINISTIC if config.deterministic else ExplorationType.RANDOM
    with set_exploration_type(exploration):
        first = env.rollout(length, policy, break_when_any_done=False)
        records = [TrialRecord.of(first, N_BINS, length)]
        for _ in range(rounds - 1):
            records.append(TrialRecord.of(env.rollout(length, policy, break_when_any_done=False), N_BINS, length))
    return TrialRecord.concatenate(records), first[0].clone()


def _record(config: DictConfig, env_config: dict[str, Any], policy: MemoryPolicy, path: Path) -> Path:
    """Write the video of a trial, in an environment of its own."""
    policy.sequence_model.memory_budget = config.memory_budget
    env = build_env({**env_config, **({"workers": 0} if "workers" in env_config else {})}, 1, config.seed)
    exploration = ExplorationType.DETERMINISTIC if config.deterministic else ExplorationType.RANDOM
    try:
        with set_exploration_type(exploration):
            record_trial(env, policy, path)
    finally:
        env.close()
    return path


def _figures(record: TrialRecord, bin_steps: int) -> dict[str, Any]:
    returns = estimate_mean(record.returns[:, None])
    curve = estimate_mean(record.rewards)
    return {
        "n_trials": len(record.returns),
        "trial_length": int(record.lengths[0]),
        "return_per_trial": float(returns.mean[0]),
        "return_per_trial_interval": [float(returns.low[0]), float(returns.high[0])],
        "return_by_quarter": record.by_part(4).mean(0).tolist(),
        "in_context_curve": {
            "steps": ((np.arange(N_BINS) + 1) * record.lengths.mean() / N_BINS).tolist(),
            "reward": curve.mean.tolist(),
            "low": curve.low.tolist(),
            "high": curve.high.tolist(),
        },
        "by_episode": {
            "n_trials": np.isfinite(record.episode_returns).sum(0).tolist(),
            "return": np.nanmean(record.episode_returns, axis=0).tolist(),
            "success": np.nanmean(record.episode_successes, axis=0).tolist(),
            **(
                {"spl": np.nanmean(record.episode_spl, axis=0).tolist()}
                if np.isfinite(record.episode_spl).any()
                else {}
            ),
        },
        "by_steps": record.by_steps(bin_steps),
    }


def _log_to_mlflow(checkpoint: dict[str, Any], figures: dict[str, Any], files: list[Path]) -> None:
    """Add the figures to the training run, in the store that it was logged to."""
    run_id, logger = checkpoint["mlflow_run_id"], checkpoint["config"]["logger"]
    if run_id is None or not logger:
        return
    try:
        client = MlflowClient(logger["tracking_uri"])
        # A longer trial or a smaller memory is another measurement, so it has another name.
        name = f"eval/{figures['split']}/{figures['trial_length']}_steps"
        if figures["memory_budget"] is not None:
            name += f"/budget_{figures['memory_budget']}"
        step = figures["frames_trained"]
        client.log_metric(run_id, f"{name}/return_per_trial", figures["return_per_trial"], step=step)
        for quarter, value in enumerate(figures["return_by_quarter"], start=1):
            client.log_metric(run_id, f"{name}/return_quarter_{quarter}", value, step=step)
        for file in files:
            client.log_artifact(run_id, str(file), "evaluation")
    except MlflowException as error:
        print(f"not logged to MLflow: {str(error).splitlines()[0]}", file=sys.stderr)
