"""The house simulator: furnished houses and objects generated from a seed, rendering, and geodesic distances.

It needs only numpy, numba and scipy, and knows no environment interface: :mod:`memo_lightning.envs.habitat` wraps it
as a habitat-lab simulator. The same seed gives the same bits on every machine.
"""

from memo_lightning.houses.camera import REFERENCE_CAMERA, Camera
from memo_lightning.houses.house import HouseSpec, build_house
from memo_lightning.houses.navigation import build_navigator
from memo_lightning.houses.object_types import OBJECT_TYPES
from memo_lightning.houses.placement import Placement
from memo_lightning.houses.pose import Pose
from memo_lightning.houses.sources import GeneratedSource
from memo_lightning.houses.starts import Start
from memo_lightning.houses.view import View

__all__ = [
    "OBJECT_TYPES",
    "REFERENCE_CAMERA",
    "Camera",
    "GeneratedSource",
    "HouseSpec",
    "Placement",
    "Pose",
    "Start",
    "View",
    "build_house",
    "build_navigator",
]
