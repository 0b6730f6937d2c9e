"""Untrained policies, shared with the tests of the agent."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))
