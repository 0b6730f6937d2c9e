"""The pose of an agent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memo_lightning.houses.shapes import turn

HEADINGS = tuple(range(0, 360, 30))  # degrees; closed under the agent's turns
PITCHES = (-30, 0, 30)


@dataclass(frozen=True)
class Pose:
    """The position and viewing direction of an agent.

    Angles are kept in degrees, so that a full circle of turns ends exactly where it began.

    Args:
        x: position of the feet to the right, metres.
        y: position of the feet upwards, metres.
        z: position of the feet towards the viewer, metres.
        heading: rotation to the left, degrees; at 0 the agent looks along -z.
        pitch: pitch of the camera, degrees; positive looks up.
    """

    x: float
    y: float
    z: float
    heading: float
    pitch: float = 0.0

    @property
    def rotation(self) -> list[float]:
        """The heading as habitat's quaternion x, y, z, w."""
        cosine, sine = turn(self.heading / 2)
        return [0.0, sine, 0.0, cosine]

    def ahead(self, length: float) -> tuple[float, float]:
        """Return the change in x and z when the agent walks ``length`` metres straight ahead."""
        cosine, sine = turn(self.heading)
        return -length * sine, -length * cosine

    def eye_and_axes(self, eye_height: float) -> np.ndarray:
        """Return the position of the eye and the unit vectors right, up and forward, float64 ``[4, 3]``."""
        cosine, sine = turn(self.heading)
        cos_pitch, sin_pitch = turn(self.pitch)
        return np.array(
            (
                (self.x, self.y + eye_height, self.z),
                (cosine, 0.0, -sine),
                (sine * sin_pitch, cos_pitch, cosine * sin_pitch),
                (-sine * cos_pitch, sin_pitch, -cosine * cos_pitch),
            )
        )


def heading_of(y: float, w: float) -> float:
    """Return the heading in degrees, 0 to 360, of the quaternion x = 0, y, z = 0, w."""
    # Rounding removes the last bits, in which maths libraries differ.
    return round(math.degrees(2.0 * math.atan2(y, w)), 6) % 360.0


def look_at(x: float, z: float, target: tuple[float, float, float], eye_height: float) -> Pose:
    """Return the pose on the floor at (x, z) that brings a target closest to the centre of the image.

    Its heading and pitch are among :data:`HEADINGS` and :data:`PITCHES`.
    """
    dx, dy, dz = target[0] - x, target[1] - eye_height, target[2] - z
    # Compare products, not angles: they are the same on every machine.
    heading = max(HEADINGS, key=lambda degrees: -turn(degrees)[1] * dx - turn(degrees)[0] * dz)
    across = math.sqrt(dx * dx + dz * dz)
    pitch = max(PITCHES, key=lambda degrees: turn(degrees)[0] * across + turn(degrees)[1] * dy)
    return Pose(x, 0.0, z, heading, pitch)
