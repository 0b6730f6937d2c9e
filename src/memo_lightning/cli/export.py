"""``memo export``: write a policy as a file for other programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.deployment.export import DESCRIPTION, check_settings, export_policy
from memo_lightning.deployment.formats import FORMATS
from memo_lightning.errors import UserError
from memo_lightning.overrides import command
from memo_lightning.policies.loading import default_folder, load

HELP = """Writes a trained policy as ONNX or as a torch.export program, which runs without this package, and
policy.json, which describes its inputs and outputs. The memory must be bounded, by design or by memory_budget."""


def main(arguments: Sequence[str]) -> None:
    """Export the policy, and print how the exported program compares with it and where it is."""
    if print_help("export", HELP, arguments):
        return
    config = compose_config("export", arguments)
    if not config.checkpoint:
        raise UserError(
            "checkpoint=null: must be the path of a checkpoint or the folder of a run, e.g. checkpoint=runs/NAME"
        )
    out = Path(config.out) if config.out else default_folder(config.checkpoint, "export")
    check_settings(out, config.format, config.batch_size)
    agent = load(config.checkpoint, tracking_uri=config.tracking_uri, model=dict(config.model))
    if config.memory_budget is not None:
        agent.policy.set_memory_budget(config.memory_budget)
    memory = type(agent.policy.sequence_model).__name__
    print(
        f"exporting {memory} from {config.checkpoint}, batch size {config.batch_size}; writing to {out}",
        file=sys.stderr,
        flush=True,
    )
    compared = export_policy(agent, out, config.format, config.batch_size, config.checkpoint)
    kind = FORMATS[config.format]
    print(f"checked           {compared.n_steps} steps, equal to the policy's within {compared.difference:.1e}")
    print(
        f"time per step     {compared.step_ms:.2f} ms with {kind.runtime}, "
        f"{compared.agent_step_ms:.2f} ms with the policy itself, on one thread"
    )
    print(f"results           {out}/: {kind.file}, {DESCRIPTION}")
    if config.memory_budget is not None:
        of_memory = [word for word in arguments if word.startswith(("model.", "memory_budget="))]
        evaluated = [f"checkpoint={config.checkpoint}", *of_memory]
        print(f"\nnext: {command('memo', 'evaluate', *evaluated)}   # what the budget costs")
