"""Checkpoints of untrained policies, for tests of code that acts with them."""

import torch

from memo_lightning.policies import PolicySpec
from memo_lightning.policies.checkpoint import FORMAT, FORMAT_KEY


def save_untrained(path, interface, memory, *, config, scale, seed=0, **settings):
    """Write a checkpoint, and return the policy.

    Args:
        path: file to write.
        interface: the policy's observations and actions.
        memory: settings of the memory.
        config: training configuration stored in the checkpoint.
        scale: scale of the weights; large ones make observations and memory visible in the actions.
        seed: seed of the weights.
        settings: further arguments of the policy's specification.
    """
    encoder = {"_target_": "memo_lightning.policies.ObservationEncoder"}
    spec = PolicySpec(interface, encoder, memory, "memo_lightning.policies.heads.ActorCriticHeads", **settings)
    torch.manual_seed(seed)
    policy = spec.build().eval()
    for parameter in policy.parameters():
        if parameter.ndim > 1:
            parameter.data *= scale
    if policy.normalizer is not None:
        for buffer in policy.normalizer.buffers():
            buffer.copy_(1.0 + torch.rand_like(buffer))
    checkpoint = {
        FORMAT_KEY: FORMAT,
        "rollouts_done": 1,
        "config": config,
        "frames": 640,
        "mlflow_run_id": None,
        "policy_spec": spec.as_plain(),
        "state_dict": {f"policy.{name}": value for name, value in policy.state_dict().items()},
    }
    torch.save(checkpoint, path)
    return policy
