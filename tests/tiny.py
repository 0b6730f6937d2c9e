"""A training that is over in a second, for tests that need one, and which of its metrics are a matter of time.

Later overrides take precedence over its own.
"""

TINY_TRAINING = [
    "debug=smoke",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]

TIMES = ("frames_per_second", "collecting", "wall_seconds")  # in metrics.json; no two runs have the same
