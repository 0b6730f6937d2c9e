"""What no memory and perfect knowledge earn in the grid worlds.

``python -m memo_lightning.benchmarks.reference_returns [--out FILE]`` plays held-out trials twice: with random actions,
and on the shortest path of an agent that is told where everything is. A score says little without these two numbers. No
agent that must first search can reach the second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memo_lightning.benchmarks.script import parser, report
from memo_lightning.envs import DarkKeyToDoor, Darkroom, ManyRooms, TMaze, TrialEnv
from memo_lightning.envs.t_maze import FORWARD, UP

_N_TRIALS = 1024
_SEEN = ("observation", "observation")
_JUNCTION = 3  # in the observation of a T-Maze
_TASKS: dict[str, tuple[Callable[..., TrialEnv], dict[str, Any]]] = {
    "dark_key_to_door": (DarkKeyToDoor, {"room_size": 5, "episode_length": 20, "trial_length": 200}),
    "dark_key_to_door_9x9": (DarkKeyToDoor, {"room_size": 9, "episode_length": 50, "trial_length": 500}),
    "darkroom": (Darkroom, {"room_size": 9, "episode_length": 20, "trial_length": 200}),
    "two_rooms": (ManyRooms, {"n_rooms": 2, "trial_length": 400}),
    "eight_rooms": (ManyRooms, {"n_rooms": 8, "trial_length": 800}),
    "thirty_two_rooms": (ManyRooms, {"n_rooms": 32, "trial_length": 1600}),
    "t_maze_100": (TMaze, {"trial_length": 101}),
    "t_maze_1000": (TMaze, {"trial_length": 1001}),
}


def main() -> None:
    """Play all tasks and report the returns per trial."""
    out = parser("reference_returns", __doc__).parse_args().out
    report([{"task": name, **settings, **returns(name)} for name, (_, settings) in _TASKS.items()], out)


def returns(task: str, n_trials: int = _N_TRIALS) -> dict[str, float]:
    """Return the mean returns per held-out trial of a random agent and of one that is told the task.

    Args:
        task: a key of the table of tasks.
        n_trials: trials of each.
    """
    kind, settings = _TASKS[task]
    told = {} if kind is TMaze else {"lit": True}
    env = kind(n_envs=n_trials, split="held_out", seed=0, **settings, **told)
    generator = torch.Generator().manual_seed(0)
    random = _play(env, lambda *_: torch.randint(0, len(env.action_names), (n_trials,), generator=generator))
    knowing = _follow_the_cue if kind is TMaze else partial(_towards_the_next_landmark, env)
    return {"random": random, "told": _play(env, knowing)}


def _play(env: TrialEnv, choose: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the mean return over one trial of every environment.

    Args:
        env: the environment.
        choose: maps the first observations of the trials and the current ones to actions.
    """
    td, total = env.reset(), 0.0
    first = td[_SEEN].clone()
    for _ in range(env.trial_length):
        td, after = env.step_and_maybe_reset(td.set("action", choose(first, td[_SEEN])))
        total += float(td["next", "reward"].sum())
        td = after
    return round(total / env.batch_size[0], 3)


def _towards_the_next_landmark(env: Any, first: Tensor, observation: Tensor) -> Tensor:
    """Return the moves to the key or, once it is held, to the door; in a Darkroom to the goal."""
    cells = observation[:, : 2 * env.room_size * (2 if isinstance(env, Darkroom) else 3)]
    position, *landmarks = cells.unflatten(1, (-1, 2, env.room_size)).argmax(-1).unbind(1)
    target = landmarks[0]
    if len(landmarks) == 2:
        holds_key = observation[:, cells.shape[1]] > 0
        target = torch.where(holds_key.unsqueeze(-1), landmarks[1], target)
    row, column = (target - position).unbind(-1)
    sideways = torch.where(column < 0, 3, torch.where(column > 0, 4, 0))
    return torch.where(row < 0, 1, torch.where(row > 0, 2, sideways))


def _follow_the_cue(first: Tensor, observation: Tensor) -> Tensor:
    """Return the actions of an agent in a T-Maze that turns as its ``first`` observation said."""
    cue, place = first.argmax(-1), observation.argmax(-1)
    return torch.where(place == _JUNCTION, UP + cue, FORWARD)


if __name__ == "__main__":
    main()
