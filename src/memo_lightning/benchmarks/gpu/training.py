"""Complete runs of ``memo train``, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import memo_lightning
from memo_lightning.benchmarks.gpu.measure import Settings

NEEDS = ("hydra", "omegaconf", "lightning", "mlflow", "torchrl", "gymnasium", "optuna", "scipy", "matplotlib")
_KEPT = ("frames", "frames_per_second", "collecting", "wall_seconds", "return_per_trial")  # of metrics.json
_TOY = (
    *("env.trial_length=40", "env.episode_length=10", "collector.n_envs=8", "total_frames=640"),
    *("model.d_model=16", "model.d_ff=32", "model.segment_length=10"),
)


def train(settings: Settings, overrides: Sequence[str]) -> dict[str, Any]:
    """Run ``memo train`` with these overrides on the device, without MLflow, and return its metrics.

    ``collecting`` is the fraction of the time spent collecting rollouts.

    Raises:
        RuntimeError: if the run failed, with the last line of its error output, or took too long.
    """
    trainer = "cpu" if settings.device == "cpu" else "gpu"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run_dir = Path(folder) / "run"
        command = ["train", *overrides, *(_TOY if settings.tiny else ()), f"trainer={trainer}", "logger=none"]
        try:
            process = subprocess.run(
                [sys.executable, "-m", "memo_lightning.cli.main", *command, f"run_dir={run_dir}"],
                capture_output=True,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": _python_path()},
                timeout=0.9 * settings.seconds,  # before this process is killed, which would orphan it
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"memo {' '.join(command)}: took longer than {0.9 * settings.seconds:.0f} s") from None
        if process.returncode:
            said = [line for line in process.stderr.splitlines() if line.strip()] or ["nothing"]
            raise RuntimeError(f"memo {' '.join(command)}: status {process.returncode}, {said[-1]}")
        metrics = json.loads((run_dir / "metrics.json").read_text())
    return {"command": f"memo {' '.join(command)}", **{key: metrics.get(key) for key in _KEPT}}


def _python_path() -> str:
    """Return a ``PYTHONPATH`` on which a process finds this very package, wherever it starts."""
    package = str(Path(memo_lightning.__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
