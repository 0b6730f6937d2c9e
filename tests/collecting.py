"""Collecting rollouts in tests, with the same chunks every time."""

import torch

from memo_lightning.data.collector import TrialCollector


def collect(env, policy, n_steps, n_chunks=1, **settings):
    """Return ``n_chunks`` chunks of ``n_steps`` steps of all environments."""
    collector = TrialCollector(
        env,
        policy,
        frames_per_batch=env.batch_size[0] * n_steps,
        total_frames=-1,
        track_traj_ids=False,
        use_buffers=False,
        return_same_td=True,
        **settings,
    )
    collector.set_seed(5)
    torch.manual_seed(5)
    collector.reset()
    chunks = iter(collector)
    return [next(chunks).clone() for _ in range(n_chunks)]
