"""How a step of an environment is laid out in a TensorDict.

- ``("observation", KEY)``: what is observed; the keys are the user's.
- ``action_mask``: which actions are allowed, where the environment says so.
- ``reward``, ``done``, ``terminated`` and, where it can happen, ``truncated``: of the trial.
- reports, which are not observed: about the episode that the step belongs to :data:`REPORTS` and, where there is such a
  thing, :data:`SUCCESS`, with :data:`SUCCESS_REPORTED` where only the end of an episode tells whether the environment
  says it; where episodes can be cut off by a limit also :data:`TRUNCATED` and, if that can happen within a trial,
  ``("final_observation", KEY)``, what was observed last of an episode whose successor has begun in the same step; and
  ``("measures", NAME)``.
"""

from __future__ import annotations

REPORTS = ("episode_end", "episode_return", "episode_length")
SUCCESS = "success"
SUCCESS_REPORTED = "success_reported"
TRUNCATED = "episode_truncated"
FINAL_OBSERVATION = "final_observation"
MEASURES = "measures"
