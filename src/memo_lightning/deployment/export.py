"""Export of a policy as a file for other programs, with a description."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from memo_lightning.deployment.check import N_RESTARTING, Comparison, compare
from memo_lightning.deployment.formats import FORMATS, Format
from memo_lightning.deployment.policy_step import NEXT_STATE, STATE, Named, PolicyStep
from memo_lightning.errors import UserError, require
from memo_lightning.files import write_atomically
from memo_lightning.models.fixed_state import trace
from memo_lightning.policies.agent import Agent
from memo_lightning.quiet import quietly
from memo_lightning.version import __version__

DESCRIPTION = "policy.json"
DESCRIPTION_FORMAT = 1  # version of policy.json; incremented with every change that its readers could not understand
_TOLERANCE = 1e-4  # float32, after hundreds of steps
_MOST_STEPS = 300
_STATE_RULE = (
    "Begin with the initial state and is_first true. After every step, feed each state output back as its input. When "
    "a new trial begins, set is_first for that element of the batch: the program then clears its state, whatever it "
    "contains."
)
_SEGMENT_RULE = (
    "No extra call is needed: the step that completes a segment also writes its summary, inside the program. Such a "
    "step takes longer than others."
)


def export_policy(agent: Agent, out: Path, format: str = "onnx", batch_size: int = 1, source: str = "") -> Comparison:
    """Export a policy to a folder, as a program that runs without this package and a description of it.

    The program is read back and compared with the agent before the folder appears.

    Args:
        agent: the policy, on the CPU and with bounded memory.
        out: the folder to write, which must not exist.
        format: ``onnx``, or ``torch`` for a program of ``torch.export``.
        batch_size: number of environments that the program acts in at once.
        source: where the agent comes from, for the description.

    Returns:
        The comparison of the program with the agent.

    Raises:
        UserError: if a setting is wrong, the memory cannot be exported, or the program's results differ from the
            policy's.
    """
    check_settings(out, format, batch_size)
    kind = FORMATS[format]
    step = _policy_step(agent, batch_size)
    inputs, outputs = step.inputs(), step.outputs()
    _check_shapes(step, inputs, outputs)
    program = _trace(step, inputs)
    partial = out.with_name(f"{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted export
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"out={out}: must be writable ({error.strerror})") from None
    try:
        _write(
            program, kind, partial, inputs, outputs, f"{type(agent.policy.sequence_model).__name__}, format={format}"
        )
        comparison = compare(kind.read(partial / kind.file), step, agent, _steps_to_compare(agent))
        if not comparison.difference <= _TOLERANCE:
            raise UserError(
                f"format={format}: the results of {kind.runtime} differ from the policy's by "
                f"{comparison.difference:.2g}; nothing was written"
            )
        described = describe(step, agent, inputs, outputs, kind.file, source)
        write_atomically(partial / DESCRIPTION, json.dumps(described, indent=2) + "\n")
        partial.rename(out)
    except OSError as error:
        raise UserError(f"out={out}: must be writable ({error.strerror})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return comparison


def check_settings(out: Path, format: str, batch_size: int) -> None:
    """Raise :class:`UserError` unless a policy could be exported with these settings."""
    require(format in FORMATS, "format", format, f"one of {', '.join(FORMATS)}")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    if out.exists():
        raise UserError(f"out={out}: exists already; must be a new folder, e.g. out={_unused(out)}")
    FORMATS[format].check()


def describe(
    step: PolicyStep, agent: Agent, inputs: list[Named], outputs: list[Named], file: str, source: str
) -> dict[str, Any]:
    """Return the contents of ``policy.json``."""
    memory = agent.policy.sequence_model
    state = {named.name: named for named in step.state()}
    segments = {"segment_length": memory.segment_length, "rule": _SEGMENT_RULE} if memory.segment_length else None
    return {
        "format": DESCRIPTION_FORMAT,
        "program": file,
        "made_by": f"memo-lightning {__version__}",
        "checkpoint": {"source": source, **{name: agent.training.get(name) for name in ("frames", "mlflow_run_id")}},
        "batch_size": step.batch_size,
        "memory": {"class": type(memory).__name__, "memory_budget": memory.memory_budget},
        "inputs": [named.as_plain() for named in inputs if named.name not in state],
        "outputs": [named.as_plain() for named in outputs if not named.name.startswith(NEXT_STATE)],
        "state": [
            {
                "input": name,
                "output": f"{NEXT_STATE}{name.removeprefix(STATE)}",
                **{key: value for key, value in named.as_plain().items() if key != "name"},
                "initial": _initial(named),
            }
            for name, named in state.items()
        ],
        "state_rule": _STATE_RULE,
        "segments": segments,
        "sampling": step.sampling(),
    }


def _policy_step(agent: Agent, batch_size: int) -> PolicyStep:
    try:
        return PolicyStep(agent, batch_size)
    except ValueError as error:
        model = agent.policy.sequence_model
        n_steps = _trial_length(agent)
        budget = model.budget_of_trial(n_steps)
        if model.memory_budget is not None or budget is None:
            raise UserError(str(error)) from None
        raise UserError(
            f"memory_budget=null: must be a number to export {type(model).__name__}, whose memory grows without one; "
            f"memory_budget={budget} keeps a whole trial of {n_steps} steps"
        ) from None


def _trial_length(agent: Agent) -> int:
    """Return the number of steps of a trial in training."""
    config = agent.training["config"]
    return (config.get("env") or {}).get("trial_length") or 1000


def _check_shapes(step: PolicyStep, inputs: list[Named], outputs: list[Named]) -> None:
    after = {o.name.removeprefix(NEXT_STATE): o for o in outputs if o.name.startswith(NEXT_STATE)}
    before = {i.name.removeprefix(STATE): i for i in inputs if i.name.startswith(STATE)}
    kind = type(step.policy.sequence_model).__name__
    for name, named in before.items():
        is_kept = name in after and after[name].value.shape == named.value.shape
        if not is_kept or after[name].value.dtype != named.value.dtype:
            raise UserError(
                f"{kind} cannot be exported: its state has no fixed shape, {name!r} changes in a step; implement "
                f"init_fixed_state and fixed_step, see SequenceModel"
            )


def _trace(step: PolicyStep, inputs: list[Named]) -> ExportedProgram:
    try:
        with quietly():
            return trace(step, ({named.name: named.value for named in inputs},))
    except Exception as error:  # torch passes on whatever its parts raise
        kind = type(step.policy.sequence_model).__name__
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{kind} cannot be exported: torch.export cannot trace the policy's step ({reason})") from None


def _write(
    program: ExportedProgram, kind: Format, folder: Path, inputs: list[Named], outputs: list[Named], what: str
) -> None:
    try:
        kind.write(program, folder / kind.file, [named.name for named in inputs], [named.name for named in outputs])
    except OSError:
        raise
    except Exception as error:  # torch passes on whatever its parts raise
        cause: BaseException = error
        while cause.__cause__ is not None:  # the last one names the operation
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
        raise UserError(f"{what}: cannot be exported ({reason}); another format may work") from None


def _steps_to_compare(agent: Agent) -> int:
    """Return enough steps to exercise a whole memory, up to a limit."""
    return min(_MOST_STEPS, agent.policy.sequence_model.steps_to_exercise() + N_RESTARTING)


def _initial(named: Named) -> Any:
    """Return the value that all elements share, or all values if they differ."""
    values = named.value
    if not values.numel() or bool((values == values.flatten()[0]).all()):
        return values.flatten()[0].item() if values.numel() else 0
    return values.tolist()


def _unused(out: Path) -> Path:
    return next(path for n in range(2, 10_000) if not (path := out.with_name(f"{out.name}-{n}")).exists())
