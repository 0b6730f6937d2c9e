"""Making runs in a separate process: training, evaluating, and storing the results."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from memo_lightning.callbacks.baseline import n_parameters
from memo_lightning.config import compose_config
from memo_lightning.errors import FAILED, USAGE_ERROR, UserError
from memo_lightning.evaluation.evaluate import evaluate
from memo_lightning.models.memory_size import peak_memory_bytes
from memo_lightning.overrides import override_text
from memo_lightning.policies.loading import load
from memo_lightning.processes import begin_worker
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import Run, evaluation_key, settings_of
from memo_lightning.tracking import code_tags
from memo_lightning.training.resume import resumed_config
from memo_lightning.training.run_dir import checkpoint_path, reported_frames
from memo_lightning.training.train import train

LOG = "output.log"
_CURVE_POINTS = 200
_OF_EVALUATIONS = (
    *("n_trials", "mean_trial_length", "trial_length", "split", "deterministic", "memory_budget", "env"),
    *("return_per_trial", "return_per_trial_interval", "return_by_quarter", "success", "spl"),
    "in_context_curve",
)
_OF_BINS = ("steps", "n_episodes", "success", "spl")
_OF_TRAININGS = (
    *("frames", "frames_per_second", "wall_seconds", "return_per_trial", "return_by_quarter"),
    *("trial_length", "memory_bytes", "flops_per_step"),
)


def work(runs: Sequence[Run], results: Results, folder: Path, environment: Mapping[str, str]) -> None:
    """Make runs one after another, as the main function of a process; its output goes to :data:`LOG`.

    Args:
        runs: the runs, each after the one that it starts from.
        results: where the results are stored.
        folder: where the runs are made; the log is in the folder of the last run.
        environment: variables that say which GPU this process uses.
    """
    begin_worker()
    own = folder / runs[-1].name
    own.mkdir(parents=True, exist_ok=True)
    with (own / LOG).open("w") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    os.environ.update({**environment, "OMP_NUM_THREADS": "1"})
    torch.set_num_threads(1)
    try:
        for run in runs:
            make(run, results, folder)
    except UserError as error:
        print(f"memo: {error}", file=sys.stderr, flush=True)
        sys.exit(USAGE_ERROR)
    except Exception:
        traceback.print_exc()
        sys.exit(FAILED)


def make(run: Run, results: Results, folder: Path) -> None:
    """Train and evaluate a run, as far as that has not been done, and store the results.

    Raises:
        UserError: if a setting is wrong, or the results cannot be written.
        TrainingStopped: if training cannot continue.
    """
    if results.is_complete(run):
        return
    run_dir = _trained(run, folder)
    described = _describe(run, json.loads((run_dir / "metrics.json").read_text()), run_dir)
    kept = results.run(run)
    if kept is None or _learned(kept) != _learned(described):  # evaluations of another training do not count
        kept = described
    for number, overrides in enumerate(run.evaluations):
        if evaluation_key(overrides) not in kept["evaluations"]:
            kept["evaluations"][evaluation_key(overrides)] = _evaluated(overrides, run_dir, number)
    results.keep_run(run, kept)


def _learned(described: Mapping[str, Any]) -> list[Any]:
    """Return what two trainings have in common only if they have learned the same."""
    return [described["training"][name] for name in ("frames", "history", "return_by_quarter")]


def _trained(run: Run, folder: Path) -> Path:
    """Return the folder of a run that has been trained to its end, starting or resuming it if needed."""
    run_dir = folder / run.name
    config_path = run_dir / "config.yaml"
    if config_path.exists():
        began_with = OmegaConf.load(config_path)
        assert isinstance(began_with, DictConfig)
        if run.changed_settings(settings_of(began_with)):
            for path in run_dir.iterdir():
                if path.name != LOG:  # which is being written
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    total = run.settings["total_frames"]
    if checkpoint_path(run_dir).exists():
        if reported_frames(run_dir) < total:
            train(resumed_config(run_dir, []))
        return run_dir
    overrides = [*run.overrides, f"seed={run.seed}", "logger=none", override_text("run_dir", str(run_dir))]
    if run.starts_from:
        before = _trained(run.starts_from, folder)
        overrides.append(override_text("checkpoint", str(checkpoint_path(before))))
    train(compose_config("train", overrides))
    return run_dir


def _describe(run: Run, metrics: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the results to store of a training run."""
    history = [[point["frames"], round(point["return_per_trial"], 4)] for point in metrics["history"]]
    stride = -(-len(history) // _CURVE_POINTS) or 1
    model = load(run_dir).policy.sequence_model
    return {
        "name": run.name,
        "memory": run.memory,
        "environment": run.environment,
        "seed": run.seed,
        "overrides": list(run.overrides),
        "starts_from": run.starts_from.name if run.starts_from else None,
        "settings": dict(run.settings),
        "code": code_tags()["code"],
        "hardware": _hardware(run),
        "training": {
            **{name: metrics[name] for name in _OF_TRAININGS},
            "parameters": n_parameters(model),
            "history": history[stride - 1 :: stride],
        },
        "evaluations": {},
    }


def _evaluated(overrides: Sequence[str], run_dir: Path, number: int) -> dict[str, Any]:
    """Evaluate a run, and return the results to store."""
    start = time.perf_counter()
    where = [override_text("checkpoint", str(run_dir)), override_text("run_dir", str(run_dir / f"evaluation{number}"))]
    found = evaluate(compose_config("evaluate", [*where, "full_memory=false", *overrides]), announce=print)
    kept = {name: found[name] for name in _OF_EVALUATIONS if name in found}
    kept["by_steps"] = {name: found["by_steps"][name] for name in _OF_BINS if name in found["by_steps"]}
    kept["env"] = {**load(run_dir).training["config"]["env"], **found["env"]}
    model = load(run_dir, model=found["model"]).policy.sequence_model
    model.memory_budget = found["memory_budget"]
    seconds = time.perf_counter() - start
    kept["segment_length"] = model.segment_length
    return _rounded({**kept, "memory_bytes": peak_memory_bytes(model, found["trial_length"]), "seconds": seconds})


def _rounded(value: Any) -> Any:
    """Round nested numbers to six significant digits, which is more than their precision."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _hardware(run: Run) -> str:
    if run.settings["trainer.accelerator"] in ("gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"one core of a CPU ({platform.machine()})"
