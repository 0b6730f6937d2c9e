"""``memo check-env``: check whether an environment can be trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.findings import print_findings
from memo_lightning.overrides import command
from memo_lightning.training.env_check import check_env

HELP = """Checks an environment before you train on it: specs, trials, seeds, resets, speed, and whether the settings
fit. Takes the settings of memo train, e.g. memo check-env env=custom env.target=my.module:make_env."""


def main(arguments: Sequence[str]) -> None:
    """Run the checks and print their findings.

    Raises:
        UserError: if something is wrong.
    """
    if print_help("train", HELP, arguments, verb="check-env"):
        return
    config = compose_config("train", arguments)
    print(
        f"checking {config.choices.env}: four environments for up to 400 steps, then the parts of training, then the "
        f"speed of {config.collector.n_envs} environments; nothing is written",
        file=sys.stderr,
        flush=True,
    )
    problems = print_findings(check_env(config))
    if problems:
        raise UserError(f"the environment is not ready for training; fix: {', '.join(problems)} (see above)")
    print(f"\nnext: {command('memo', 'train', *arguments)}")
