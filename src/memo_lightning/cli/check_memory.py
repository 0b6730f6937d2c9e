"""``memo check-memory``: check whether a memory can be trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.findings import print_findings
from memo_lightning.models.checks import check_memory, steps_to_check
from memo_lightning.overrides import command, override_key
from memo_lightning.training.parts import build_memory

HELP = """Checks a memory before you train it: stepping equals reading a whole sequence, trials do not mix, the state
contains everything that is remembered, gradients reach all weights, and half precision is accurate enough. Takes the
settings of memo train, e.g. memo check-memory baseline.target=my_memory.Averages."""
_MOST_STEPS = 512


def main(arguments: Sequence[str]) -> None:
    """Run the checks and print their findings.

    Raises:
        UserError: if something is wrong.
    """
    if print_help("train", HELP, arguments, verb="check-memory"):
        return
    keys = [override_key(argument) for argument in arguments]
    if any(key.startswith("baseline.") for key in keys) and "baseline" not in keys:
        arguments = ["baseline=custom", *arguments]
    config = compose_config("train", arguments)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    build = partial(build_memory, plain)
    model = build()
    n_steps = steps_to_check(model, min(config.collector.rollout_length, _MOST_STEPS))
    print(
        f"checking {type(model).__name__} (d_model={model.d_model}) on sequences of {n_steps} steps; "
        "nothing is written",
        file=sys.stderr,
        flush=True,
    )
    problems = print_findings(check_memory(build, n_steps))
    if problems:
        raise UserError(f"the memory is not ready for training; fix: {', '.join(problems)} (see above)")
    print(f"\nnext: {command('memo', 'train', *arguments)}")
