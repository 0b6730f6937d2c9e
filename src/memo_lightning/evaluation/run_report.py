"""The report of a finished run: ``metrics.json`` and the in-context curve, both also in MLflow."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning

from memo_lightning.callbacks.rollout_metrics import N_QUARTERS, RolloutMetrics
from memo_lightning.evaluation.colours import memory_colour
from memo_lightning.evaluation.in_context import bin_steps_that_fit
from memo_lightning.evaluation.plots import plot_in_context_curve
from memo_lightning.files import write_atomically
from memo_lightning.models.acting_flops import flops_per_step
from memo_lightning.models.memory_size import peak_memory_bytes
from memo_lightning.tracking import environment_name, memory_name
from memo_lightning.training.learner import PolicyLearner
from memo_lightning.training.run_dir import checkpoint_path

if TYPE_CHECKING:
    from memo_lightning.tracking.run_logger import RunLogger


class RunReport(lightning.Callback):
    """A callback that writes a run's metrics and in-context curve after training, and uploads them with the checkpoint.

    The metrics are means over the trials of the last rollouts, as :class:`RolloutMetrics` keeps them. If no trial was
    complete, those of trials are None and there is no curve. The learner's ``results`` are set to the same metrics.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self._start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the time that the run has taken so far."""
        return {"wall_seconds": time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume timing where the run was interrupted."""
        self._start -= state_dict["wall_seconds"]

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the report."""
        assert isinstance(pl_module, PolicyLearner)
        if not trainer.is_global_zero:
            return
        callbacks: list[lightning.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        rollouts = next(callback for callback in callbacks if isinstance(callback, RolloutMetrics))
        config = pl_module.config
        memory, environment = memory_name(config), environment_name(config)
        logger: RunLogger | None = trainer.logger  # type: ignore[assignment]
        record = rollouts.latest
        trial_length = int(record.lengths.max()) if record else pl_module.data.rollout_length
        model = pl_module.policy.sequence_model
        pl_module.results = results = {
            "frames": pl_module.frames,
            "frames_per_second": pl_module.frames / rollouts.train_seconds,
            "collecting": rollouts.collect_seconds / rollouts.train_seconds,
            "wall_seconds": time.perf_counter() - self._start,
            "return_per_trial": float(record.returns.mean()) if record else None,
            "return_by_quarter": record.by_part(N_QUARTERS).mean(0).tolist() if record else [None] * N_QUARTERS,
            "n_trials_averaged": len(record.returns) if record else 0,
            "trial_length": trial_length,
            "memory_bytes": peak_memory_bytes(model, trial_length),
            "flops_per_step": flops_per_step(model, trial_length),
            "seed": config["seed"],
            "baseline": memory,
            "env": environment,
            "mlflow_run_id": logger.run_id if logger else None,
            "history": rollouts.history,
        }
        metrics_path, curve_path = self.run_dir / "metrics.json", self.run_dir / "in_context_curve.png"
        files = [metrics_path, checkpoint_path(self.run_dir)]
        try:
            write_atomically(metrics_path, json.dumps(results, indent=2) + "\n")
            if record and rollouts.first:
                files.append(curve_path)
                records = {"first rollout": rollouts.first, "end of training": record}
                plot_in_context_curve(
                    records,
                    curve_path,
                    f"{memory} on {environment}, seed {config['seed']}, {pl_module.frames:,} frames",
                    memory_colour(memory),
                    bin_steps_that_fit([*records.values()], config["env"].get("episode_length")),
                )
        except OSError as error:
            reason = f"{self.run_dir}: the report cannot be written ({error.strerror}); its metrics:"
            print(f"{reason}\n{json.dumps(results)}", file=sys.stderr)
        if logger:
            costs = {name: results[name] for name in ("memory_bytes", "flops_per_step")}
            logger.log_metrics(costs, pl_module.frames)
            logger.log_files(*files)
