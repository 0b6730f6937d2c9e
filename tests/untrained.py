"""Checkpoints of policies that have learned nothing, for tests of what acts with them."""

import torch

from memo_lightning.policies import PolicySpec
from memo_lightning.policies.checkpoint import FORMAT, FORMAT_KEY


def save_untrained(path, interface, memory, *, config, scale, seed=0, **settings):
    """Write a checkpoint, and return the policy.

    Args:
        path: of the file.
        interface: what the policy observes and does.
        memory: description of the memory.
        config: of the training that the checkpoint says it is from.
        scale: of the weights, so that what was observed and remembered shows in the actions.
        seed: of the weights.
        settings: further arguments of the policy's description.
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
