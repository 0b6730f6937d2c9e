"""Where an agent stands and looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memo_lightning.houses.shapes import turn

HEADINGS = tuple(range(0, 360, 30))  # that an agent can take which begins at one of them
PITCHES = (-30, 0, 30)


@dataclass(frozen=True)
class Pose:
    """Where an agent stands and looks.

    Angles are kept in degrees, so that a full circle of turns ends exactly where it began.

    Args:
        x: position of the feet to the right, metres.
        y: position of the feet upwards, metres.
        z: position of the feet towards the viewer, metres.
        heading: turn to the left, degrees; at 0 the agent looks along -z.
        pitch: of the camera, degrees; positive looks up.
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
        """Return how far x and z change when the agent walks ``length`` metres straight on."""
        cosine, sine = turn(self.heading)
        return -length * sine, -length * cosine

    def eye_and_axes(self, eye_height: float) -> np.ndarray:
        """Return float64 ``[4, 3]``: the eye, and the unit vectors to the right, upwards and forwards."""
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
    # Rounding takes away the last bits, in which mathematics libraries differ.
    return round(math.degrees(2.0 * math.atan2(y, w)), 6) % 360.0


def look_at(x: float, z: float, target: tuple[float, float, float], eye_height: float) -> Pose:
    """Return the pose on the floor at (x, z) that brings a target nearest to the middle of the image.

    Its heading and pitch are among :data:`HEADINGS` and :data:`PITCHES`.
    """
    dx, dy, dz = target[0] - x, target[1] - eye_height, target[2] - z
    # Comparing products, not angles: they are the same on every machine.
    heading = max(HEADINGS, key=lambda degrees: -turn(degrees)[1] * dx - turn(degrees)[0] * dz)
    across = math.sqrt(dx * dx + dz * dz)
    pitch = max(PITCHES, key=lambda degrees: turn(degrees)[0] * across + turn(degrees)[1] * dy)
    return Pose(x, 0.0, z, heading, pitch)
