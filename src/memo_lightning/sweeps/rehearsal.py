"""A rehearsal before a study begins, to find mistakes that only training reveals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping

from memo_lightning.config import nearest
from memo_lightning.errors import UserError
from memo_lightning.overrides import override_key
from memo_lightning.sweeps.study_file import StudySpec
from memo_lightning.sweeps.trial import TrialTask, read_result, write_task
from memo_lightning.sweeps.trial_process import TrialProcess


def rehearse(spec: StudySpec, environment: Mapping[str, str]) -> None:
    """Train for one rollout with the settings that all trials share, to check that it works and logs the objectives.

    Raises:
        UserError: if it does not work, or an objective or the pruner's metric is not logged.
    """
    print("rehearsing one rollout", file=sys.stderr, flush=True)
    folder = spec.run_dir / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    metrics = [objective.metric for objective in spec.objectives]
    kept = [override for override in spec.train if override_key(override).partition(".")[0] != "logger"]
    overrides = [*kept, "total_frames=1", "logger=none"]
    write_task(TrialTask(overrides, [0], metrics), folder)
    process = TrialProcess(folder, environment, forked=spec.one_process_on_cpu)
    process.wait()
    result = read_result(folder)
    if result is None:
        raise UserError(f"the study's train settings fail: {process.why_no_result()}")
    if result.state != "complete" and not result.logged:
        raise UserError(f"the study's train settings fail: {result.error}; see {folder / 'output.log'}")
    for name, metric in [*((f"objectives[{k}].metric", m) for k, m in enumerate(metrics)), *_pruner_metric(spec)]:
        if metric not in result.logged:
            raise UserError(f"{name}={metric}: is never logged; {nearest(metric, result.logged)}")
    shutil.rmtree(folder)


def _pruner_metric(spec: StudySpec) -> list[tuple[str, str]]:
    return [("prune_on", spec.settings["prune_on"])] if spec.settings["pruner"] else []
