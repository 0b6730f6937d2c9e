"""``memo train``: train a policy. Also runs as a script, for launchers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.cli.next_commands import ui_commands
from memo_lightning.config import compose_config
from memo_lightning.overrides import command, override_text, parse_override
from memo_lightning.wording import returns_in_words

HELP = """Trains a policy. Writes config.yaml, metrics.json, checkpoints/last.ckpt and in_context_curve.png to
<run_dir>/, and logs the run to MLflow. Without overrides: Memo on Dark-Key-To-Door 5x5, on the CPU."""


def main(arguments: Sequence[str]) -> None:
    """Train, then print the results and what to do next."""
    if print_help("train", HELP, arguments):
        return
    # Imported here, as they take seconds: neither the help nor worker processes, which import this module, need them.
    from memo_lightning.training.launchers import launcher_overrides
    from memo_lightning.training.resume import resumed_config
    from memo_lightning.training.train import train

    arguments = [*launcher_overrides(os.environ), *arguments]
    overrides = {text: parse_override(text) for text in arguments}
    resume = next((o.value() for o in overrides.values() if o.key_or_group == "resume"), None)
    if resume:
        config = resumed_config(
            Path(str(resume)), [text for text, o in overrides.items() if o.key_or_group != "resume"]
        )
    else:
        config = compose_config("train", arguments)
    metrics = train(config)
    if not metrics:
        return
    speed = f"{metrics['frames_per_second']:,.0f} frames/s, {metrics['collecting']:.0%} of the time collecting"
    lines = {"frames": f"{metrics['frames']:,} in {metrics['wall_seconds']:.0f} s ({speed})"}
    if metrics["n_trials_averaged"]:
        n_trials = metrics["n_trials_averaged"]
        (mean,) = returns_in_words(metrics["return_per_trial"])
        lines["return per trial"] = f"{mean} (mean of the last {n_trials} trials)"
        lines["by quarter"] = " / ".join(returns_in_words(*metrics["return_by_quarter"]))
        lines["plot"] = f"{config.run_dir}/in_context_curve.png"
    else:
        lines["return per trial"] = "no trial completed"
    lines["results"] = f"{config.run_dir}/metrics.json"
    print("\n" + "\n".join(f"{name:<17} {text}" for name, text in lines.items()))
    checkpoint = override_text("checkpoint", config.run_dir)
    after = [
        command("memo", "evaluate", checkpoint),
        *(ui_commands(config.logger.tracking_uri) if config.logger else []),
    ]
    print("\nnext: " + "\n      ".join(after))


if __name__ == "__main__":
    from memo_lightning.cli.main import main as memo

    sys.exit(memo(["train", *sys.argv[1:]]))
