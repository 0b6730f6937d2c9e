"""The numbers of object navigation (arXiv 2510.19732): how an agent moves, what a success is, what a step is worth."""

from __future__ import annotations

FORWARD_STEP = 0.25  # metres
TURN_ANGLE = 30  # degrees, also by which the camera tilts
MAX_PITCH = 60  # degrees, up or down
SUCCESS_DISTANCE = 2.0  # metres on foot to an instance, below which a stop can be a success
SUCCESS_PIXELS = 10  # of that instance in the reference camera, from which on it is
SUCCESS_REWARD = 2.0
SLACK_REWARD = -0.003  # of every step
MAX_DEPTH = 10.0  # metres that depth images show
