"""Acting steps recorded as CUDA graphs.

An acting step launches some hundred small kernels, and launching them takes the host longer than running them takes the
GPU. A CUDA graph launches all of them at once. It repeats exactly what was recorded, with the current weights, which
optimizers change in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from memo_lightning.policies.heads import PolicyHeads

if TYPE_CHECKING:
    from memo_lightning.policies.memory_policy import MemoryPolicy

Recording = tuple[Callable[[], Any], TensorDictBase]
"""A function that repeats what was recorded, and the outputs, which it overwrites."""

StepRecorder = Callable[[Callable[[], TensorDictBase]], Recording]
"""Records a function that reads and writes the same tensors in every call."""


class RecordedSteps:
    """The steps of a policy, from its inputs to the parameters of the action distribution.

    There are two recordings: one of ordinary steps, one of steps with which an environment completes a segment. The
    host counts the steps of all segments, so it knows which is next without waiting for the GPU. Each kind of step runs
    once without a recording before it is recorded.

    The memory is a state of fixed shape (:meth:`SequenceModel.init_fixed_state`), which stays where it is.

    Args:
        policy: a policy on a GPU.
        n_steps: maximum number of steps of a trial. A memory that grows is given as much room as they need.
        record: records a step.

    Raises:
        ValueError: if the memory has no state of fixed shape, or the heads override ``forward``.
    """

    def __init__(self, policy: MemoryPolicy, n_steps: int, record: StepRecorder | None = None) -> None:
        if type(policy.heads).forward is not PolicyHeads.forward:
            raise ValueError(f"{type(policy.heads).__name__} overrides forward: must override read and choose instead")
        self._policy, self._record = policy, record or CUDAStepRecorder()
        budget = policy.sequence_model.memory_budget
        n_read = n_steps + 1  # peek looks at the step after the last
        self._budget = policy.sequence_model.budget_of_trial(n_read) if budget is None else budget
        self._segment_length = policy.sequence_model.segment_length or 0  # 0 is never reached
        with self._bounded():
            self._state = policy.sequence_model.init_fixed_state(0)
        self._inputs: TensorDictBase | None = None
        self._open_steps = torch.zeros(0, dtype=torch.int64)
        self._recordings: dict[bool, Recording | None] = {}

    def reset(self) -> None:
        """Empty the memory of all environments."""
        for value in (*self._state.values(), self._open_steps):
            value.zero_()

    @torch.no_grad()
    def __call__(self, inputs: TensorDictBase, starts: Tensor) -> TensorDictBase:
        """Take a step.

        Args:
            inputs: policy inputs ``[N]``, on the device of the policy.
            starts: bool ``[N]`` on the CPU, true for environments whose memory is emptied first.

        Returns:
            What :meth:`PolicyHeads.read` adds, and the action mask if there is one, ``[N]``.
        """
        inputs = inputs.select(*self._policy.in_keys)
        if self._inputs is None or self._inputs.batch_size != inputs.batch_size:
            self._begin(inputs)
        else:
            self._inputs.update_(inputs)
        outputs = self._run(self._count(starts)).clone()
        return outputs.update(inputs.select(*self._policy.head_keys))

    def peek(self, inputs: TensorDictBase, which: Tensor) -> Tensor:
        """Return the memory's outputs ``[n, D]`` for a next step of some environments, which is not taken.

        Args:
            inputs: policy inputs ``[n]``, on the device of the policy.
            which: int64 ``[n]`` on the CPU, indices of the environments.
        """
        model, state = self._policy.sequence_model, {name: value[which] for name, value in self._state.items()}
        nowhere = torch.zeros(len(which), dtype=torch.bool, device=self._policy.device)
        completes = bool((self._open_steps[which] + 1 == self._segment_length).any())
        with self._bounded():
            return model.fixed_step(self._policy.encode(inputs), state, nowhere, completes)[0]

    def _begin(self, inputs: TensorDictBase) -> None:
        """Begin with an empty memory and no recordings, for as many environments as there are ``inputs [N]``."""
        self._inputs, n_envs = inputs.clone(), len(inputs)
        with self._bounded():
            self._state = self._policy.sequence_model.init_fixed_state(n_envs)
        self._open_steps = torch.zeros(n_envs, dtype=torch.int64)
        self._recordings = {}

    def _count(self, starts: Tensor) -> bool:
        """Count the steps of all segments; return whether any environment completes one with the next step."""
        steps = self._open_steps.masked_fill(starts, 0) + 1
        completes = steps == self._segment_length
        self._open_steps = steps.masked_fill(completes, 0)
        return bool(completes.any())

    def _run(self, completes: bool) -> TensorDictBase:
        """Take a step with what is in the tensors; see :meth:`SequenceModel.fixed_step` for ``completes``."""
        if completes not in self._recordings:
            self._recordings[completes] = None
            return self._step(completes)
        recording = self._recordings[completes]
        if recording is None:
            recording = self._recordings[completes] = self._record(lambda: self._step(completes))
        replay, outputs = recording
        replay()
        return outputs

    def _step(self, completes: bool) -> TensorDictBase:
        """Read the inputs and update the memory, both where they are; return what the heads make of it."""
        policy, inputs = self._policy, self._inputs
        assert inputs is not None
        with self._bounded():
            hidden, state = policy.sequence_model.fixed_step(
                policy.encode(inputs), self._state, policy.memory_starts(inputs), completes
            )
        for name, value in state.items():
            self._state[name].copy_(value)
        return policy.heads.read(TensorDict({"hidden": hidden.float()}, inputs.batch_size))

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Give the memory the budget of its state; outside of acting it needs none."""
        model = self._policy.sequence_model
        before, model.memory_budget = model.memory_budget, self._budget
        try:
            yield
        finally:
            model.memory_budget = before


class CUDAStepRecorder:
    """A recorder of CUDA graphs, in memory that all of its recordings share."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, step: Callable[[], TensorDictBase]) -> Recording:
        """Record a step; see :data:`StepRecorder`."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = step()
        return graph.replay, outputs
