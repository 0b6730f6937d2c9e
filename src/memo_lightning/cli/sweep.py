"""``memo sweep``: search for the best settings with Optuna."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memo_lightning.cli.help import print_files, print_help
from memo_lightning.cli.next_commands import compare_command, ui_commands
from memo_lightning.errors import UserError
from memo_lightning.overrides import command, override_text
from memo_lightning.sweeps.run import run_study
from memo_lightning.sweeps.space import as_overrides
from memo_lightning.sweeps.study_file import read_study, shipped_studies
from memo_lightning.tracking import describe_store
from memo_lightning.wording import without_password

HELP = """Runs a study: memo sweep sweeps/NAME.yaml [override ...]. Override settings of the study as key=value
(n_trials=40 workers=2 storage=postgresql://user@host/db). All other overrides apply to memo train in every trial. The
same command resumes a study that was stopped, or joins it from another machine."""


def main(arguments: Sequence[str]) -> None:
    """Run the study, then print its outcome and what to do next."""
    if print_help("sweep", HELP, arguments):
        print("\nshipped studies:")
        print_files(sorted(shipped_studies().glob("*.yaml")))
        return
    if not arguments or "=" in arguments[0]:
        known = ", ".join(sorted(file.stem for file in shipped_studies().glob("*.yaml")))
        raise UserError(f"memo sweep needs a study file first: memo sweep sweeps/NAME.yaml; shipped studies: {known}")
    spec = read_study(arguments[0], arguments[1:])
    objectives = ", ".join(f"{objective.direction} {objective.metric}" for objective in spec.objectives)
    storage = without_password(spec.settings["storage"] or str(spec.run_dir / "journal.log"))
    logger = spec.train_config.logger
    logged = f", logging to {describe_store(logger.tracking_uri, logger.experiment_name)}" if logger else ""
    print(
        f"study {spec.name}: {objectives} over {len(spec.space)} settings, {spec.settings['n_trials']} trials of "
        f"{spec.settings['n_seeds']} seed(s) x {spec.train_config.total_frames:,} frames, "
        f"{spec.settings['workers']} at once; stored in {storage}, writing to {spec.run_dir}{logged}",
        file=sys.stderr,
    )
    try:
        report = run_study(spec)
    except KeyboardInterrupt:
        print(f"interrupted\nnext: {command('memo', 'sweep', *arguments)}   # resumes the study", file=sys.stderr)
        raise
    print(f"\ntrials            {', '.join(f'{n} {state}' for state, n in sorted(report.states.items()))}")
    for trial, file in zip(report.best, report.experiments, strict=True):
        metrics = ", ".join(f"{o.metric} {v:.4g}" for o, v in zip(spec.objectives, trial.values, strict=True))
        name = "best" if len(spec.objectives) == 1 else "Pareto front"
        print(f"{name:<17} trial {trial.number}: {metrics}")
        print(f"                  {' '.join(as_overrides(trial.params))}\n                  {file}")
    print(f"plots and table   {spec.run_dir}/")
    if report.experiments:
        print(f"\nnext: {command('memo', 'train', override_text('experiment', str(report.experiments[0])))}")
        if logger:
            study = override_text("study", spec.name)
            print(f"      {compare_command(logger.tracking_uri, logger.experiment_name, study)}")
            print("".join(f"      {line}\n" for line in ui_commands(logger.tracking_uri)), end="")
    else:
        print(f"no trial completed; the errors are in {spec.run_dir}/trials/*/output.log")
