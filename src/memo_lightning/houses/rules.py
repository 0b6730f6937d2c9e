"""The constants of object navigation (arXiv 2510.19732): motion of the agent, success criterion and rewards."""

from __future__ import annotations

FORWARD_STEP = 0.25  # metres
TURN_ANGLE = 30  # degrees, also for camera tilts
MAX_PITCH = 60  # degrees, up or down
SUCCESS_DISTANCE = 2.0  # metres, geodesic; a stop succeeds only closer than this to an instance
SUCCESS_PIXELS = 10  # that must show this instance in the reference camera
SUCCESS_REWARD = 2.0
SLACK_REWARD = -0.003  # at every step
MAX_DEPTH = 10.0  # metres at which depth images are clipped
