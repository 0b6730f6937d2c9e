"""Settings for tests: a small memory, PPO, and a training that takes a second."""

import torch

MEMO_SIZES = {
    "d_model": 16,
    "n_layers": 1,
    "n_heads": 2,
    "d_ff": 32,
    "segment_length": 5,
    "summary_length": 2,
}
MEMO = {"_target_": "memo_lightning.models.MemoTransformer", **MEMO_SIZES}

PPO_SETTINGS = {
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "cross_episode_returns": False,
    "clip_epsilon": 0.2,
    "entropy_coef": 0.01,
    "value_coef": 0.5,
    "n_epochs": 2,
    "n_minibatches": 2,
    "normalize_advantage": True,
    "target_kl": None,
    "recompute_log_probs": False,
    "shuffle_episodes": False,
    "detach_older_encodings": False,
    "learning_rate": 1e-2,
    "optimizer": torch.optim.Adam,
    "warmup_frames": 0,
    "schedule": "constant",
    "max_grad_norm": 0.5,
    "reward_scale": 1.0,
    "noise_correlation": 0.0,
    "max_skipped_updates": 10,
}

# Overrides of memo train; later ones win.
TINY_TRAINING = [
    "debug=smoke",
    "env.trial_length=40",
    "env.episode_length=10",
    "collector.n_envs=8",
    "model.d_model=16",
    "model.d_ff=32",
    "model.segment_length=10",
]

_TIMES = ("frames_per_second", "collecting", "wall_seconds", "seconds")


def without_times(metrics):
    """Return the metrics of a run, as in metrics.json, without times, which always differ between runs."""
    history = [{name: value for name, value in point.items() if name not in _TIMES} for point in metrics["history"]]
    return {name: value for name, value in metrics.items() if name not in _TIMES} | {"history": history}


# By default each rollout has 32 optimizer steps, which take most of the time of such a training.
# This is for tests of what is done with a run rather than of how it learns.
FEW_UPDATES = ["algorithm.n_epochs=1", "algorithm.n_minibatches=2"]

# The same off-policy: the replay fills up quickly, and updates begin early.
TINY_OFF_POLICY = [
    *TINY_TRAINING,
    "algorithm=actor_critic",
    "algorithm.updates_per_frame=0.01",
    "algorithm.learning_starts=320",
    "algorithm.replay.capacity_trials=20",
    "algorithm.replay.batch_size=4",
    "algorithm.critic_width=8",
    "algorithm.warmup_frames=0",
]
