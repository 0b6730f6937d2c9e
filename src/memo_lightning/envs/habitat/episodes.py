"""Episodes of object navigation for habitat-lab: what to find, from where, and in which placement."""

from __future__ import annotations

import attr
from habitat.core.simulator import AgentState
from habitat.tasks.nav.object_nav_task import ObjectGoal, ObjectGoalNavEpisode, ObjectViewLocation

from memo_lightning.houses import Placement, Start
from memo_lightning.houses.placement import PlacedObject


@attr.s(auto_attribs=True, kw_only=True)
class ExtObjNavEpisode(ObjectGoalNavEpisode):
    """An episode of a trial.

    Args:
        placement: the objects of the house, the same for all episodes of a trial.
        origin_position: start of the placement's first episode; in the ``trial`` frame, positions are relative to it.
        origin_rotation: the agent's rotation there, as x, y, z, w.
    """

    placement: Placement
    origin_position: list[float]
    origin_rotation: list[float]


def make_episode(
    placement: Placement, number: int, start: Start, origin: Start, scene_dataset: str = "default"
) -> ExtObjNavEpisode:
    """Return the habitat episode of ``placement`` from ``start``; ``origin`` is the start of its first episode.

    Raises:
        UserError: if the goal's type has no instance in the placement.
    """
    return ExtObjNavEpisode(  # type: ignore[call-arg]
        episode_id=f"{placement.scene_id}/{placement.index}/{number}",
        scene_id=placement.scene_id,
        scene_dataset_config=scene_dataset,
        start_position=[start.x, start.y, start.z],
        start_rotation=start.pose.rotation,
        goals=[_goal(placed) for placed in placement.instances(start.goal)],
        object_category=start.goal,
        placement=placement,
        origin_position=[origin.x, origin.y, origin.z],
        origin_rotation=origin.pose.rotation,
    )


def _goal(placed: PlacedObject) -> ObjectGoal:
    view = AgentState([placed.view.x, placed.view.y, placed.view.z], placed.view.rotation)
    return ObjectGoal(
        position=[placed.goal[0], placed.floor, placed.goal[1]],
        object_id=str(placed.instance),
        object_name=f"{placed.type} {placed.instance}",
        object_name_id=placed.instance,
        object_category=placed.type,
        room_id=str(placed.room),
        view_points=[ObjectViewLocation(agent_state=view, iou=None)],
    )
