"""The memories of many sessions, kept in blocks of rows as the last step left them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from memo_lightning.models.segments import join_states
from memo_lightning.policies import Agent, AgentState

_GROWTH = 4  # ratio between successive size classes of memories
_SHORT = 64  # steps up to which memories are not distinguished by size


@dataclass(eq=False)
class Memory:
    """The place of one session's memory.

    Attributes:
        block: the block that holds it; None before the first step of a trial.
        row: its row in the block.
        steps: steps of the trial so far.
    """

    block: Block | None = None
    row: int = 0
    steps: int = 0


@dataclass(eq=False)
class Block:
    """Rows that were stepped together.

    Attributes:
        rows: TensorDict ``[n]`` of an agent's states.
        owners: owner of each row; None where it has left.
        nbytes: size of the rows in bytes.
    """

    rows: TensorDict
    owners: list[Memory | None]
    nbytes: int = 0

    def __post_init__(self) -> None:
        self.nbytes = _nbytes(self.rows)

    def replace(self, rows: TensorDict) -> None:
        """Replace the rows by new ones of the same owners."""
        self.rows, self.nbytes = rows, _nbytes(rows)

    @property
    def n_live(self) -> int:
        """Number of rows that are still in use."""
        return sum(owner is not None for owner in self.owners)


class Memories:
    """The memories of all sessions, which are joined for a call and then left together.

    A call copies at most the rows of its own sessions, and nothing if the same sessions act together again; memories of
    idle sessions are not touched. A block is made smaller once half of its owners have left, so that no more than twice
    the necessary memory is held.

    Args:
        agent: the agent whose memories they are.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._blocks: set[Block] = set()
        self._least_bytes = max(1, _nbytes(self._fresh(1)))

    @property
    def nbytes(self) -> int:
        """Size of all blocks in bytes."""
        return sum(block.nbytes for block in tuple(self._blocks))  # the model's thread changes the set meanwhile

    def size_class(self, memory: Memory) -> int:
        """Return a number that is the same for memories of similar size.

        Every row of a batch costs as much as the longest. Memories of different classes are therefore not stepped
        together, so that a session does not pay for the length of another. Memories that do not grow are of one class.
        """
        if memory.block is None or memory.steps < _SHORT:
            return 0
        held = memory.block.nbytes / len(memory.block.owners)
        return min(_class_of(memory.steps / _SHORT), _class_of(held / self._least_bytes))

    def gather(self, memories: Sequence[Memory]) -> tuple[list[int], AgentState]:
        """Bring the rows of some memories together.

        Args:
            memories: the memories, all different.

        Returns:
            For each row the index of its memory in ``memories``, and the state ``[n]`` to step. Pass the state after
            the step to :meth:`put`.
        """
        by_block: dict[Block, list[int]] = {}
        for index, memory in enumerate(memories):
            if memory.block is not None:
                by_block.setdefault(memory.block, []).append(index)
        fresh = [index for index, memory in enumerate(memories) if memory.block is None]
        if len(by_block) == 1 and not fresh:
            ((block, members),) = by_block.items()
            if len(members) == len(block.owners):  # the same sessions as in the last call: nothing is copied
                members.sort(key=lambda index: memories[index].row)
                return members, _as_state(block.rows)
        order: list[int] = []
        parts = []
        for block, members in by_block.items():
            parts.append(block.rows[torch.tensor([memories[index].row for index in members])])
            order += members
            for index in members:
                block.owners[memories[index].row] = None
            self._shrink(block)
        if fresh:
            parts.append(self._fresh(len(fresh)))
            order += fresh
        joined = Block(join_states(parts), [memories[index] for index in order])
        for row, index in enumerate(order):
            memories[index].block, memories[index].row = joined, row
        self._blocks.add(joined)
        return order, _as_state(joined.rows)

    def put(self, memory: Memory, state: AgentState) -> None:
        """Store the gathered rows after a step; ``memory`` is any one of them."""
        assert memory.block is not None
        memory.block.replace(_as_rows(state))

    def drop(self, memory: Memory) -> None:
        """Clear a memory."""
        block, memory.block, memory.steps = memory.block, None, 0
        if block is not None:
            block.owners[memory.row] = None
            self._shrink(block)

    def _shrink(self, block: Block) -> None:
        n_live = block.n_live
        if n_live == 0:
            self._blocks.discard(block)
        elif n_live <= len(block.owners) / 2:
            kept = [row for row, owner in enumerate(block.owners) if owner is not None]
            block.owners = [block.owners[row] for row in kept]
            block.replace(block.rows[torch.tensor(kept)])
            for row, owner in enumerate(block.owners):
                assert owner is not None
                owner.row = row

    def _fresh(self, n: int) -> TensorDict:
        return _as_rows(self._agent.initial_state(n))


def _as_rows(state: AgentState) -> TensorDict:
    parts = {"memory": state.memory, "previous_action": state.previous_action, "is_first": state.is_first}
    return TensorDict(parts, state.memory.batch_size)


def _as_state(rows: TensorDict) -> AgentState:
    return AgentState(rows["memory"], rows["previous_action"], rows["is_first"], is_batch=True)


def _nbytes(rows: TensorDict) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in rows.values(True, True))


def _class_of(ratio: float) -> int:
    return math.floor(math.log(max(1.0, ratio), _GROWTH))
