"""Spots where an agent stands and looks, in the steps that its actions allow."""

from __future__ import annotations

from dataclasses import dataclass

from memo_lightning.envs.habitat.camera import REFERENCE_CAMERA, Pose
from memo_lightning.envs.habitat.shapes import turn

HEADINGS = tuple(range(0, 360, 30))
PITCHES = (-30, 0, 30)


@dataclass(frozen=True)
class Spot:
    """Where an agent stands and looks: x, z in metres, heading and pitch in degrees."""

    x: float
    z: float
    heading: int
    pitch: int

    @property
    def pose(self) -> Pose:
        """The same as a pose on the floor."""
        return Pose(self.x, 0.0, self.z, *turn(self.heading), self.pitch)


def look_at(x: float, z: float, target: tuple[float, float, float]) -> tuple[int, int]:
    """Return the heading and pitch, of those an agent can take, that bring a target nearest to the middle."""
    dx, dy, dz = target[0] - x, target[1] - REFERENCE_CAMERA.eye_height, target[2] - z
    # Comparing products, not angles: they are the same on every machine.
    heading = max(HEADINGS, key=lambda degrees: -turn(degrees)[1] * dx - turn(degrees)[0] * dz)
    across = (dx * dx + dz * dz) ** 0.5
    pitch = max(PITCHES, key=lambda degrees: turn(degrees)[0] * across + turn(degrees)[1] * dy)
    return heading, pitch
