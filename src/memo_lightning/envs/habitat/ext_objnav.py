"""ExtObjNav as a TorchRL environment: batched trials of object navigation, optionally in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from memo_lightning.envs.gymnasium import GymnasiumEnv
from memo_lightning.envs.habitat.compact import CompactObservations
from memo_lightning.envs.habitat.shim import habitat_sim_is_installed
from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.object_navigation.settings import PositionFrame, SensorName, SimulatorName
from memo_lightning.errors import require
from memo_lightning.houses.columns import MAX_RANGE


class ExtObjNav(GymnasiumEnv):
    """Environments that run trials; see :class:`~memo_lightning.envs.habitat.trial.HabitatTrials` for what a trial is.

    Args:
        n_envs: number of environments N.
        trial_length: steps of a trial.
        episode_length: steps after which an episode ends without success.
        workers: processes to spread the environments over; 0 for this process alone.
        object_range: metres within which the columns report the types of objects.
        step_timeout: seconds after which a step or reset of a worker counts as hanging.
        seed: seed of all random streams.
        device: device of the tensors.
        settings: the remaining arguments are those of :class:`~memo_lightning.envs.habitat.trial.HabitatTrials`.

    Raises:
        UserError: if a setting is wrong.
        EnvironmentFailure: if a worker raises, dies or hangs, now or later.
    """

    def __init__(
        self,
        *,
        n_envs: int,
        trial_length: int,
        episode_length: int,
        sensors: Sequence[SensorName],
        image_size: int,
        n_columns: int,
        can_tilt: bool,
        position_frame: PositionFrame,
        split: str,
        dataset: dict[str, Any],
        simulator: SimulatorName,
        scene_dataset: str,
        data_path: str,
        object_folder: str = "",
        object_range: float = MAX_RANGE,
        workers: int = 0,
        step_timeout: float = 60.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if simulator == "habitat_sim" and habitat_sim_is_installed():  # several in one process abort when they close
            allowed = f"{n_envs}, the number of environments: a process can hold only one habitat-sim"
            require(n_envs == 1 or workers == n_envs, "env.workers", workers, allowed)
        make = partial(
            make_trial_env, trial_steps=trial_length, episode_steps=episode_length, sensors=tuple(sensors),
            image_size=image_size, n_columns=n_columns, object_range=object_range, can_tilt=can_tilt,
            position_frame=position_frame, split=split, dataset=dataset, simulator=simulator,
            scene_dataset=scene_dataset, data_path=data_path, object_folder=object_folder,
        )  # fmt: skip
        super().__init__(
            n_envs=n_envs,
            make=make,
            measures=("spl",),
            trial_length=trial_length,
            episodes_per_trial=None,
            time_limit_is_end=True,  # the time of the episode is observed
            workers=workers,
            step_timeout=step_timeout,
            seed=seed,
            device=device,
        )


def make_trial_env(object_range: float = MAX_RANGE, **settings: Any) -> CompactObservations:
    """Return one environment with the compact observations that a policy reads."""
    return CompactObservations(HabitatTrials(**settings), object_range)
