"""Placements: the objects that stand in a house during a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from memo_lightning.errors import UserError, require
from memo_lightning.houses.house import HouseSpec
from memo_lightning.houses.object_types import OBJECT_TYPES
from memo_lightning.houses.pose import Pose
from memo_lightning.houses.shapes import SolidArrays, pack, turn

REACH = 1.6  # metres, geodesic, from a pose that sees an object to its goal; an episode succeeds within 2
TYPE_NUMBERS = {object_type.name: number for number, object_type in enumerate(OBJECT_TYPES, start=1)}
_TYPES = {object_type.name: object_type for object_type in OBJECT_TYPES}


@dataclass(frozen=True)
class PlacedObject:
    """One object in a house.

    Args:
        instance: semantic id, from 1.
        type: name of its :class:`~memo_lightning.houses.object_types.ObjectType`.
        position: x, y, z of the centre of its base, metres.
        yaw: rotation about the vertical axis, degrees.
        room: index of the room it is in.
        goal: x, z of the nearest roomy point in its room; distances to the object are measured to this point.
        view: a pose that sees the object, within a geodesic distance :data:`REACH` of the goal.
        floor: height of the floor at the goal, metres; 0 in generated houses.
    """

    instance: int
    type: str
    position: tuple[float, float, float]
    yaw: int
    room: int
    goal: tuple[float, float]
    view: Pose
    floor: float = 0.0


@dataclass(frozen=True)
class PlacementSpec:
    """The specification of a generated placement.

    Args:
        house: the house.
        index: number of the placement in this house; part of the seed.
        n_types: number of object types; the first ``n_types`` are used.
        n_objects: number of objects; every type occurs at least once.

    Raises:
        UserError: if a number is out of range.
    """

    house: HouseSpec
    index: int
    n_types: int = 20
    n_objects: int = 30

    def __post_init__(self) -> None:
        require(self.index >= 0, "placement index", self.index, "at least 0")
        require(1 <= self.n_types <= len(OBJECT_TYPES), "n_types", self.n_types, f"1 to {len(OBJECT_TYPES)}")
        allowed = f"at least n_types={self.n_types} and at most 100"
        require(self.n_types <= self.n_objects <= 100, "n_objects", self.n_objects, allowed)


@dataclass(frozen=True)
class Placement:
    """The objects placed in a house.

    Args:
        scene_id: name of the house.
        index: number of the placement in this house.
        objects: the objects, by instance.
        n_rejected: how often an object was rejected and placed again because it could not be found.
    """

    scene_id: str
    index: int
    objects: tuple[PlacedObject, ...]
    n_rejected: int = 0

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Names of the types that have an instance, sorted."""
        return tuple(sorted({placed.type for placed in self.objects}))

    @cached_property
    def arrays(self) -> SolidArrays:
        """The objects' solids, packed for the ray caster."""
        return arrays_of(
            [(placed.type, placed.position, placed.yaw) for placed in self.objects],
            [placed.instance for placed in self.objects],
        )

    def instances(self, object_type: str) -> list[PlacedObject]:
        """Return the objects of one type.

        Raises:
            UserError: if there is none.
        """
        found = [placed for placed in self.objects if placed.type == object_type]
        if not found:
            raise UserError(
                f"object type {object_type!r} has no instance in placement {self.index} of {self.scene_id}: "
                f"must be one of {', '.join(self.types)}"
            )
        return found


def arrays_of(objects: Sequence[tuple[str, tuple[float, float, float], int]], instances: Sequence[int]) -> SolidArrays:
    """Pack the solids of objects, each given by its type, position and yaw in degrees."""
    solids, owners, types = [], [], []
    for (name, position, yaw), instance in zip(objects, instances, strict=True):
        for solid in _TYPES[name].solids:
            solids.append(solid.placed(position, *turn(yaw)))
            owners.append(instance)
            types.append(TYPE_NUMBERS[name])
    return pack(solids, owners, types)
