"""Layout of an environment step in a TensorDict.

- ``("observation", KEY)``: observations; the keys are the user's.
- ``action_mask``: which actions are allowed, if the environment says so.
- ``reward``, ``done``, ``terminated`` and, where it can happen, ``truncated``: of the trial.

The other keys report on the episode that the step belongs to, and are not observed:

- :data:`REPORTS`.
- :data:`SUCCESS`, where it is defined, and :data:`SUCCESS_REPORTED`, where only the end of an episode tells whether the
  environment reports success.
- :data:`TRUNCATED`, where a limit can cut episodes off, and, if that can happen within a trial,
  ``("final_observation", KEY)``: the last observation of an episode whose successor begins in the same step.
- ``("measures", NAME)``: further measures.
"""

from __future__ import annotations

REPORTS = ("episode_end", "episode_return", "episode_length")
SUCCESS = "success"
SUCCESS_REPORTED = "success_reported"
TRUNCATED = "episode_truncated"
FINAL_OBSERVATION = "final_observation"
MEASURES = "measures"
