"""``env=ext_objnav``: choice of the engine that steps trials of object navigation."""

from __future__ import annotations

from typing import Any, Literal, get_args

from torchrl.envs import EnvBase

from memo_lightning.envs.object_navigation.batched import BatchedExtObjNav
from memo_lightning.envs.object_navigation.settings import SimulatorName, check_dataset, check_simulator
from memo_lightning.errors import require

Engine = Literal["batched", "habitat"]
OBSERVED = ("rgb", "depth", "columns")  # sensors that policies read; habitat-lab's Env has others


def make_ext_objnav(
    *,
    n_envs: int,
    engine: Engine = "batched",
    simulator: SimulatorName = "house_sim",
    scene_dataset: str = "",
    object_folder: str = "",
    workers: int = 0,
    step_timeout: float = 60.0,
    **settings: Any,
) -> EnvBase:
    """Return N environments that run trials of object navigation.

    Args:
        n_envs: number of environments N.
        engine: ``batched`` steps all environments with compiled kernels in threads of this process; ``habitat``
            steps habitat-lab's own environments one after another, or in worker processes, and gives the same numbers.
            Trials in habitat-sim are always stepped by habitat-lab.
        simulator: ``house_sim``, which needs no habitat-sim, or ``habitat_sim``.
        scene_dataset: for ``habitat_sim``: the scene dataset with the scenes of ``data_path``.
        object_folder: for ``habitat_sim``: a folder with object models, if the scene dataset has none.
        workers: processes to spread habitat-lab's environments over.
        step_timeout: seconds that a step of habitat-lab's environments may take.
        settings: settings of both engines; see :class:`BatchedExtObjNav`.

    Raises:
        UserError: if a setting is wrong.
        EnvironmentFailure: if a worker raises, dies or hangs, now or later.
    """
    require(engine in get_args(Engine), "env.engine", engine, " or ".join(get_args(Engine)))
    for sensor in settings.get("sensors", ()):
        require(sensor in OBSERVED, "env.sensors", sensor, f"among {', '.join(OBSERVED)}")
    check_simulator(simulator, scene_dataset, object_folder)
    if not settings.get("data_path"):
        check_dataset(settings["split"], settings["dataset"])
    if engine == "batched" and simulator == "house_sim":
        allowed = "0 with env.engine=batched, which uses threads; env.engine=habitat supports workers"
        require(workers == 0, "env.workers", workers, allowed)
        return BatchedExtObjNav(n_envs=n_envs, **settings)
    from memo_lightning.envs.habitat.ext_objnav import ExtObjNav  # imports habitat-lab, which takes seconds

    return ExtObjNav(
        n_envs=n_envs,
        simulator=simulator,
        scene_dataset=scene_dataset,
        object_folder=object_folder,
        workers=workers,
        step_timeout=step_timeout,
        **settings,
    )
