"""The model card of a package: text for people, and front matter for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from memo_lightning.policies import PolicySpec
from memo_lightning.policies.package import CURVE, EVALUATION, MANIFEST, POLICY, TRAINING, VIDEO, WEIGHTS
from memo_lightning.tracking import environment_name, memory_name
from memo_lightning.tracking.evaluations import EvaluationKind
from memo_lightning.version import __version__
from memo_lightning.wording import returns_in_words

_FILES = {
    WEIGHTS: "weights, and copies of the JSON files",
    POLICY: "architecture of the policy: observations, actions, encoder, memory, heads",
    TRAINING: "training configuration",
    EVALUATION: "results on tasks not seen in training",
    CURVE: "reward within a trial",
    VIDEO: "video of a trial",
    MANIFEST: "SHA-256 of every file",
}
_SIZES = ("d_model", "n_layers", "n_heads", "d_ff", "segment_length", "summary_length", "memory_budget")


@dataclass(frozen=True)
class Described:
    """The policy that a card describes.

    Attributes:
        spec: specification of the policy.
        config: configuration of its training.
        frames: number of frames it was trained for.
        evaluation: contents of ``evaluation.json``; None if there is none.
        n_weights: number of trained weights.
        files: names of the package's files so far.
    """

    spec: PolicySpec
    config: Mapping[str, Any]
    frames: int
    evaluation: Mapping[str, Any] | None
    n_weights: int
    files: Collection[str]


def changed_settings(evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return the settings in which an evaluation differs from training, e.g. ``["env.lit=True"]``.

    Args:
        evaluation: contents of ``evaluation.json``.
        config: configuration of the training.
    """
    kind, trained = EvaluationKind.of(evaluation), config.get("env", {}).get("trial_length")
    length = [f"env.trial_length={kind.trial_length}"] if trained not in (None, kind.trial_length) else []
    return [*length, *kind.changes]


def model_card(described: Described) -> str:
    """Return the text of ``README.md``."""
    memory, environment = _names(described)
    front = yaml.safe_dump(_front_matter(described, memory, environment), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {memory} on {environment}",
        "A policy with a long memory, trained by reinforcement learning with "
        f"memo-lightning {__version__} for {described.frames:,} frames.",
    ]
    if CURVE in described.files:
        parts.append(f"![Reward over the steps of a trial]({CURVE})")
    if described.evaluation is not None:
        parts.append(_evaluation(described.evaluation, described.config))
    if VIDEO in described.files:
        parts.append(f"[Video of a trial]({VIDEO})")
    parts += [_policy(described), _use()]
    names = [name for name in _FILES if name in described.files or name == MANIFEST]
    parts.append(f"## Files\n\n{_table((f'`{name}`', _FILES[name]) for name in names)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _names(described: Described) -> tuple[str, str]:
    try:
        return memory_name(described.config), environment_name(described.config)
    except (KeyError, TypeError):  # the configuration was not composed by memo train
        return str(described.spec.memory["_target_"]).rpartition(".")[2], "environment"


def _front_matter(described: Described, memory: str, environment: str) -> dict[str, Any]:
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "meta-reinforcement-learning", "memory"]
    front: dict[str, Any] = {
        "library_name": "memo-lightning",
        "pipeline_tag": "reinforcement-learning",
        "tags": [*tags, memory, environment],
    }
    evaluation = described.evaluation
    if evaluation is not None:
        metrics = [_metric("mean_reward", "return per trial", evaluation["return_per_trial"])]
        for name in ("success", "spl"):
            if evaluation.get(name) is not None:
                metrics.append(_metric(name, f"{name} (mean over episodes)", evaluation[name]))
        dataset = {"name": environment, "type": environment, "split": evaluation["split"]}
        if changed := changed_settings(evaluation, described.config):
            dataset["config"] = ", ".join(changed)
        result = {
            "task": {"type": "reinforcement-learning", "name": "Reinforcement Learning"},
            "dataset": dataset,
            "metrics": metrics,
        }
        front["model-index"] = [{"name": f"{memory}-{environment}", "results": [result]}]
    return front


def _metric(kind: str, name: str, value: float) -> dict[str, Any]:
    return {"type": kind, "name": name, "value": round(float(value), 4), "verified": False}


def _evaluation(evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    values = (evaluation["return_per_trial"], *evaluation["return_per_trial_interval"])
    mean, low, high = returns_in_words(*values)
    quarters = " / ".join(returns_in_words(*evaluation["return_by_quarter"]))
    rows = [("return per trial", f"{mean} (95 % interval {low} to {high})"), ("by quarter of the trial", quarters)]
    rows += [
        (f"{label} (mean over episodes)", f"{evaluation[name]:.2f}")
        for name, label in (("success", "success"), ("spl", "SPL"))
        if evaluation.get(name) is not None
    ]
    rows.append(("memory budget", str(evaluation["memory_budget"] or "none")))
    rows.append(("actions", "most likely" if evaluation["deterministic"] else "sampled"))
    changed = ", ".join(f"`{change}`" for change in changed_settings(evaluation, config))
    rows.append(("settings that differ from training", changed or "none"))
    trials = f"{evaluation['n_trials']} trials of {evaluation['mean_trial_length']:,.0f} steps"
    where = f"{trials}, {evaluation['split']} tasks, seed {evaluation['seed']}."
    return f"## Evaluation\n\n{where}\n\n{_table(rows)}"


def _policy(described: Described) -> str:
    spec = described.spec
    sizes = ", ".join(f"{name}={spec.memory[name]}" for name in _SIZES if spec.memory.get(name) is not None)
    rows = [
        ("memory", f"`{spec.memory['_target_'].rpartition('.')[2]}` ({sizes})"),
        ("weights", f"{described.n_weights:,}"),
        ("observation", f"`{spec.interface.observation_space}`"),
        ("action", f"`{spec.interface.action.space}`" + (", with a mask" if spec.interface.action.masked else "")),
        ("seed", str(described.config.get("seed"))),
    ]
    return f"## Policy\n\n{_table(rows)}"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Return pairs of a name and a value as a table without a head; a bar or a line break would end a cell."""
    lines = "\n".join(f"| {name} | {' '.join(value.split()).replace('|', '/')} |" for name, value in rows)
    return f"| | |\n|---|---|\n{lines}"


def _use() -> str:
    return """## Use

```python
import memo_lightning

agent = memo_lightning.load("hf:OWNER/NAME")  # or the folder of this package
state = agent.initial_state()
action, state = agent.act(agent.observation_space.sample(), state)
```

`memo evaluate checkpoint=hf:OWNER/NAME` runs it on held-out tasks, and `memo serve checkpoint=hf:OWNER/NAME` serves
it to programs that are not Python."""
