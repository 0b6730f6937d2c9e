"""Export of trained policies to other programs."""

from memo_lightning.deployment.export import export_policy
from memo_lightning.deployment.policy_step import PolicyStep

__all__ = ["PolicyStep", "export_policy"]
