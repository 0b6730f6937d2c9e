"""The latency of an acting step, and how often it makes the host wait for the device."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from memo_lightning.benchmarks.gpu.measure import Precision, Settings, SkippedError
from memo_lightning.benchmarks.gpu.memories import Sizes, build
from memo_lightning.benchmarks.gpu.profile import host_synchronisations, slowest_operators
from memo_lightning.benchmarks.timing import seconds_of

_N_WARM_UP = 5


@torch.no_grad()
def measure_steps(
    settings: Settings, name: str, sizes: Sizes, n_envs: int, n_history: int, precision: Precision = "float32"
) -> dict[str, Any]:
    """Measure the steps of a memory alone, over a segment that starts after ``n_history`` steps.

    Returns:
        See :func:`_timed`.
    """
    model = build(name, sizes).to(settings.device).eval()
    n_steps = sizes.segment_length + _N_WARM_UP
    with settings.autocast(precision):
        _, state = model.prefill(settings.inputs(1, n_history, sizes.d_model))
        state = state.expand(n_envs).clone()
        x = settings.inputs(n_steps, n_envs, sizes.d_model, seed=1)

        def step(t: int) -> None:
            nonlocal state
            _, state = model.step(x[t], state)

        return _timed(settings, step, n_steps)


@torch.no_grad()
def measure_policy(
    settings: Settings, sizes: Sizes, n_envs: int, profiled: bool = False, recorded: bool = False
) -> dict[str, Any]:
    """Measure what a collector needs at every step: encoder, memory, heads, and the actions on the host.

    Returns:
        See :func:`_timed`; if ``profiled``, the slowest operators instead, with their share of the device's time.

    Raises:
        SkippedError: if steps are to be ``recorded`` as CUDA graphs and there is no GPU.
    """
    if recorded and settings.device != "cuda":
        raise SkippedError("CUDA graphs need a GPU")
    # Imported here because these need TorchRL and Gymnasium, which the other measurements do not.
    import numpy as np
    from gymnasium import spaces
    from torchrl.envs.utils import ExplorationType, set_exploration_type

    from memo_lightning.policies import Interface, MemoryPolicy, VectorEncoder
    from memo_lightning.policies.action import Action
    from memo_lightning.policies.heads import ActorCriticHeads
    from memo_lightning.policies.observation_keys import ObservationKey

    space = spaces.Box(-1.0, 1.0, (10,), np.float32)
    interface = Interface(space, [ObservationKey("observation", (), space)], Action(spaces.Discrete(5)))
    memory = build("memo", sizes)
    encoder = VectorEncoder(interface.observed(), memory.d_model)
    policy = MemoryPolicy(encoder, memory, ActorCriticHeads(memory.d_model, interface.action)).to(settings.device)
    two_segments = 2 * sizes.segment_length
    if recorded:
        policy.record_steps(3 * two_segments)
    inputs = interface.observed((n_envs,)).rand()
    for flag in ("is_init", "episode_end"):
        inputs[flag] = torch.zeros(n_envs, 1, dtype=torch.bool)

    def step(t: int) -> None:
        policy(inputs.copy())["action"].cpu()  # environments are on the CPU: inputs go to the device, actions come back

    with set_exploration_type(ExplorationType.RANDOM):
        if profiled:
            for t in range(_N_WARM_UP):
                step(t)
            return {"slowest_operators": slowest_operators(settings, lambda: step(_N_WARM_UP))}
        for t in range(two_segments if recorded else 0):  # the second step of each kind is recorded
            step(t)
        return _timed(settings, step, two_segments + _N_WARM_UP)


def _timed(settings: Settings, step: Callable[[int], None], n_steps: int) -> dict[str, Any]:
    """Time ``n_steps - 2`` steps, then repeat step ``n_steps - 1`` to time it queued and to find where it waits.

    Returns:
        ``step_ms`` (median) and ``worst_step_ms``, each including the device's work; ``queued_step_ms``, the mean if
        only the step itself waits for the device; and ``synchronisations`` of an ordinary step, counted by
        source line.
    """
    times = [seconds_of(lambda t=t: step(t), settings.torch_device)[0] for t in range(n_steps - 2)]  # type: ignore[misc]
    times = times[_N_WARM_UP:]
    last = n_steps - 1

    def several() -> None:
        for _ in range(_N_WARM_UP):
            step(last)

    queued = seconds_of(several, settings.torch_device)[0] / _N_WARM_UP
    return {
        "step_ms": 1e3 * statistics.median(times),
        "worst_step_ms": 1e3 * max(times),
        "queued_step_ms": 1e3 * queued,
        "synchronisations": host_synchronisations(settings, lambda: step(last)),
    }
