"""Checks of a memory against the contract of :class:`SequenceModel`, with violations described in words."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable, Iterator, Mapping

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor

from memo_lightning.findings import Finding
from memo_lightning.models.base import SequenceModel
from memo_lightning.models.fixed_state import FixedStep, trace
from memo_lightning.quiet import quietly

_TOLERANCE = 1e-4  # for float32 outputs, relative to one plus their size
_HALF_PRECISION_TOLERANCE = 0.1  # for the mean difference, relative to the mean size of the outputs
_N_SEQUENCES = 6


class _Broken(Exception):
    """A violation of the contract, described by the message."""


def check_memory(build: Callable[[], SequenceModel], n_steps: int, *, thorough: bool = True) -> Iterator[Finding]:
    """Yield the findings of the checks of a memory, one by one.

    The checks run on the CPU with random inputs of their own, on a memory that nothing else uses. Parameters that start
    as a constant are perturbed first, because they could hide a mistake (such as a gate that is still closed).

    Args:
        build: builds the memory, a new one with the same settings each time.
        n_steps: length T of the sequences; a memory with segments needs more than one segment.
        thorough: whether to check the whole contract, or only what would make training wrong without an error: shapes,
            time, trials and stepping.
    """
    checks = {**_ESSENTIAL, **(_FURTHER if thorough else {})}
    try:
        with torch.random.fork_rng(devices=[]):
            model = _vary_constants(build().cpu()).eval()
    except Exception as error:
        yield Finding("contract", _describe(error, "building it"))
        return
    x = torch.randn(_N_SEQUENCES, n_steps, model.d_model, generator=torch.Generator().manual_seed(0))
    for name, check in checks.items():
        finding = _look(name, check, model, x)
        yield finding
        if name == "contract" and finding.problem:
            return
    if thorough:
        yield _look("weights", lambda model, x: _check_weights(model, x, build), model, x)


def steps_to_check(model: SequenceModel, most: int) -> int:
    """Return how many steps exercise all of a memory: two and a half segments, at least 32, but at most ``most``."""
    return min(most, max(32, 5 * (model.segment_length or 0) // 2 + 1))


def _look(name: str, check: Callable[[SequenceModel, Tensor], str], model: SequenceModel, x: Tensor) -> Finding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return Finding(name, note=check(model, x))
        except _Broken as error:
            return Finding(name, str(error))
        except Exception as error:  # the memory's code may raise anything
            return Finding(name, _describe(error, "it"))
        finally:
            model.eval()


def _describe(error: Exception, what: str) -> str:
    """Describe an exception in one line, with the file and line that it comes from."""
    return f"{what} raised {type(error).__name__}: {' '.join(str(error).split())[:300]}{_where(error)}"


def _where(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


@torch.no_grad()
def _vary_constants(model: SequenceModel) -> SequenceModel:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() and (parameter == parameter.flatten()[0]).all():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def _starts_of_trials(x: Tensor) -> Tensor:
    """Return varied trial starts, bool ``[B, T]``: trials of one and of many steps, and a sequence without a start."""
    n_steps = x.shape[1]
    is_init = torch.zeros(x.shape[:2], dtype=torch.bool)
    for sequence, starts in enumerate([[0], [0, 1, 2], [0, n_steps // 3], [0, n_steps // 2, n_steps - 1], []]):
        is_init[sequence, [start for start in starts if start < n_steps]] = True
    is_init[5] = torch.rand(n_steps, generator=torch.Generator().manual_seed(1)) < 0.1
    return is_init


@torch.no_grad()
def _step_through(
    model: SequenceModel, x: Tensor, is_init: Tensor | None = None, state: TensorDict | None = None
) -> tuple[Tensor, TensorDict]:
    state, outputs = model.init_state(len(x)) if state is None else state, []
    for t in range(x.shape[1]):
        y_t, state = model.step(x[:, t], state, None if is_init is None else is_init[:, t])
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


def _differing(a: Tensor, b: Tensor) -> tuple[int, int, float] | None:
    """Return sequence, step and size of the first difference between two ``[B, T, D]``; None if there is none."""
    difference = (a - b).abs()
    wrong = ~(difference <= _TOLERANCE * (1 + b.abs())).all(-1)  # also where one is NaN
    if not wrong.any():
        return None
    step = int(wrong.any(0).int().argmax())
    sequence = int(wrong[:, step].int().argmax())
    return sequence, step, float(difference[sequence, step].max())


def _check_contract(model: SequenceModel, x: Tensor) -> str:
    state: object = model.init_state(_N_SEQUENCES)
    _check_state(state, model, f"init_state({_N_SEQUENCES})")
    with torch.no_grad():
        y: object = model(x)
        _check_output(y, x.shape, "forward")
        stepped: object = model.step(x[:, 0], state)
    if not (isinstance(stepped, tuple) and len(stepped) == 2):
        raise _Broken(f"step returned {_kind(stepped)}; must be the outputs [B, D] and the state after the step")
    _check_output(stepped[0], x[:, 0].shape, "step")
    _check_state(stepped[1], model, "step")
    entries = ", ".join(f"{_joined(name)} {list(value.shape[1:])}" for name, value in stepped[1].items(True, True))
    return f"forward, step and init_state have the right shapes; the state of a sequence: {entries or 'nothing'}"


def _check_output(y: object, shape: torch.Size, method: str) -> None:
    if not isinstance(y, Tensor) or y.shape != shape:
        said = f"a tensor {list(y.shape)}" if isinstance(y, Tensor) else _kind(y)
        raise _Broken(f"{method} returned {said} for inputs {list(shape)}; must be a tensor of the same shape")
    if not y.isfinite().all():
        raise _Broken(f"{method} returned numbers that are not finite, for inputs with a standard deviation of one")


def _check_state(state: object, model: SequenceModel, method: str) -> None:
    if not isinstance(state, TensorDict):
        raise _Broken(f"{method} returned {_kind(state)}; must be a TensorDict of batch size [{_N_SEQUENCES}]")
    if state.batch_size != (_N_SEQUENCES,):
        raise _Broken(f"{method} returned a state of batch size {list(state.batch_size)}; must be [{_N_SEQUENCES}]")
    if set(state.keys()) != set(model.state_names):
        held, declared = (", ".join(sorted(names)) or "nothing" for names in (state.keys(), model.state_names))
        raise _Broken(f"{method} returned a state that holds {held}; must be state_names, which are {declared}")


def _joined(name: NestedKey) -> str:
    return name if isinstance(name, str) else ".".join(name)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"


def _check_steps(model: SequenceModel, x: Tensor) -> str:
    is_init = _starts_of_trials(x)
    for flags in (None, is_init):
        with torch.no_grad():
            y = model(x, flags)
        differing = _differing(_step_through(model, x, flags)[0], y)
        if differing:
            sequence, step, size = differing
            start = 0 if flags is None else int(flags[sequence, : step + 1].nonzero().flatten()[-1:].sum())
            raise _Broken(
                f"step and forward differ by {size:.3g} at step {step - start} of a trial"
                f"{f' that begins at step {start} of its sequence' if start else ''}; must be equal"
            )
    return f"stepping equals forward over {x.shape[1]} steps, in trials that begin at different steps"


def _check_trials(model: SequenceModel, x: Tensor) -> str:
    start = x.shape[1] // 2
    is_init = torch.zeros(x.shape[:2], dtype=torch.bool)
    is_init[:, start] = True
    other = torch.cat([torch.flip(x[:, :start], [0]), x[:, start:]], 1)
    with torch.no_grad():
        differing = _differing(model(other, is_init)[:, start:], model(x, is_init)[:, start:])
    if differing:
        raise _Broken(
            f"{differing[1]} steps into a trial the outputs depend, by {differing[2]:.3g}, on the trial before it; the "
            f"memory must be cleared where is_init is true"
        )
    return "a trial does not depend on the previous one"


def _check_time(model: SequenceModel, x: Tensor) -> str:
    at = x.shape[1] // 2
    other = torch.cat([x[:, :at], torch.flip(x[:, at:], [0])], 1)
    with torch.no_grad():
        differing = _differing(model(other)[:, :at], model(x)[:, :at])
    if differing:
        raise _Broken(f"the output of step {differing[1]} depends, by {differing[2]:.3g}, on step {at} or later")
    return "no output depends on a later step"


def _check_batch(model: SequenceModel, x: Tensor) -> str:
    is_init = _starts_of_trials(x)
    with torch.no_grad():
        together = model(x, is_init)
        alone = torch.cat([model(x[i : i + 1], is_init[i : i + 1]) for i in range(len(x))])
    differing = _differing(alone, together)
    if differing:
        raise _Broken(f"the outputs of a sequence depend, by {differing[2]:.3g}, on the other sequences of its batch")
    return "the outputs of a sequence are the same alone and in a batch"


def _check_state_is_all(model: SequenceModel, x: Tensor) -> str:
    """Continue from a copy of a state after the model has been used for something else, with two batch sizes."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    half = x.shape[1] // 2
    expected, _ = _step_through(model, x)
    _, state = _step_through(model, x[:, :half])
    kept = state.clone()
    _step_through(model, torch.flip(x, [0])[:, half:], state=state)
    _step_through(model, x[:2])
    continued, _ = _step_through(model, x[:, half:], state=kept)
    differing = _differing(continued, expected[:, half:])
    if differing:
        raise _Broken(
            f"outputs from a copy of the state differ by {differing[2]:.3g} after the model has stepped other inputs; "
            f"the state must hold everything that is remembered, and a copy must share no tensors with it"
        )
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    if changed:
        raise _Broken(f"stepping changed {', '.join(changed)}; weights and buffers must not change")
    _, full = _step_through(model, x)
    before, after = (model.state_nbytes(s) // len(x) for s in (kept, full))
    grows = f"{after:,} bytes per sequence after {x.shape[1]} steps"
    return grows if before == after else f"{grows}, {before:,} after {half}"


def _check_prefill(model: SequenceModel, x: Tensor) -> str:
    is_init, half = _starts_of_trials(x), x.shape[1] // 2
    expected, _ = _step_through(model, x, is_init)
    y, state = model.prefill(x[:, :half], is_init[:, :half])
    _check_state(state, model, "prefill")
    differing = _differing(y, expected[:, :half])
    if differing:
        raise _Broken(f"prefill and step differ by {differing[2]:.3g} at step {differing[1]}; must be equal")
    continued, _ = _step_through(model, x[:, half:], is_init[:, half:], state)
    differing = _differing(continued, expected[:, half:])
    if differing:
        raise _Broken(
            f"{differing[1]} steps after prefill the outputs differ by {differing[2]:.3g} from those of step alone; "
            f"prefill must return the same state as step"
        )
    return "prefill returns the same outputs and state as stepping"


def _check_gradients(model: SequenceModel, x: Tensor) -> str:
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inputs = x.clone().requires_grad_()
    missing, reach = set(parameters), 0
    for _ in range(8):  # a memory that drops layers at random may leave some out
        y = model(inputs, **model.acting_pass())
        loss = (y * torch.randn_like(y)).mean()
        auxiliary = model.auxiliary_loss()
        total = loss if auxiliary is None else loss + auxiliary
        *gradients, of_inputs = torch.autograd.grad(total, [*parameters.values(), inputs], allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and not gradient.isfinite().all():
                raise _Broken(f"the gradient of {name} is not finite")
            if gradient is not None and gradient.any():
                missing.discard(name)
        if of_inputs is None or not of_inputs.any(-1).all():
            raise _Broken("no gradient reaches some of the inputs, so the encoder would not learn from them")
        (of_last,) = torch.autograd.grad(model(inputs, **model.acting_pass())[:, -1].sum(), inputs)
        model.auxiliary_loss()
        reach = max(reach, x.shape[1] - 1 - int(of_last.any(-1).any(0).int().argmax()))
        if not missing:
            break
    if missing:
        raise _Broken(
            f"no gradient reaches {', '.join(sorted(missing))}; parameters that are not trained must have "
            f"requires_grad=False"
        )
    return f"all parameters are trained; the gradient of the last output reaches {reach} steps back"


def _check_half_precision(model: SequenceModel, x: Tensor) -> str:
    is_init = _starts_of_trials(x)
    with torch.no_grad():
        expected = model(x, is_init)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x, is_init).float()
    difference = float((y - expected).abs().mean() / expected.abs().mean())
    if not difference <= _HALF_PRECISION_TOLERANCE:
        raise _Broken(
            f"under autocast to bfloat16 forward differs by {difference:.0%} in the mean; keep sums over time, "
            f"exponentials and norms in float32"
        )
    return f"under autocast to bfloat16 forward differs by {difference:.2%} in the mean"


def _check_export(model: SequenceModel, x: Tensor) -> str:
    """Trace a step; a failure is not a fault, as neither training nor evaluation needs it."""
    is_init = torch.zeros(len(x), dtype=torch.bool)
    try:
        with quietly():
            trace(FixedStep(model), (x[:, 0], model.init_fixed_state(len(x)), is_init))
    except Exception as error:
        budget = model.budget_of_trial(x.shape[1])
        if model.memory_budget is None and budget is not None:
            return (
                f"can be exported with a memory_budget, as its memory grows; {budget} is enough for {x.shape[1]} steps"
            )
        return f"torch.export cannot trace step{_where(error)}, so it cannot be deployed; training needs no export"
    return "torch.export can trace step"


def _check_weights(model: SequenceModel, x: Tensor, build: Callable[[], SequenceModel]) -> str:
    with torch.no_grad():
        expected = model(x)
        if _differing(copy.deepcopy(model)(x), expected):
            raise _Broken("a copy of the model gives different outputs; workers act with a copy")
        loaded = build().cpu().eval()
        loaded.load_state_dict(model.state_dict())
        if _differing(loaded(x), expected):
            raise _Broken(
                "a new model that loads the weights gives different outputs; register tensors that are not parameters "
                "with register_buffer"
            )
    return f"{sum(p.numel() for p in model.parameters()):,} parameters; a model that loads them gives the same outputs"


_Check = Callable[[SequenceModel, Tensor], str]
_ESSENTIAL: Mapping[str, _Check] = {
    "contract": _check_contract,
    "time": _check_time,
    "trials": _check_trials,
    "steps": _check_steps,
}
_FURTHER: Mapping[str, _Check] = {
    "batch": _check_batch,
    "state": _check_state_is_all,
    "prefill": _check_prefill,
    "gradients": _check_gradients,
    "half precision": _check_half_precision,
    "export": _check_export,
}
