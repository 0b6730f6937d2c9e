"""Proximal policy optimisation (arXiv 1707.06347) on whole rows, with TorchRL's clipped loss on the heads."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.objectives import ClipPPOLoss

from memo_lightning.errors import require
from memo_lightning.objectives.advantages import add_advantages
from memo_lightning.policies import MemoryPolicy


class PPO:
    """What to do with a rollout: advantages, then epochs over minibatches of whole rows.

    The loss sits on the two heads and reads the trunk's output as an entry that carries gradient, so encoder
    and sequence model run once per minibatch.

    Args:
        gamma: discount per step.
        gae_lambda: lambda of generalised advantage estimation.
        clip_epsilon: how far the probability ratio may move.
        entropy_coef: weight of the entropy bonus.
        value_coef: weight of the squared value error.
        n_epochs: passes over a rollout.
        n_minibatches: minibatches per pass; at most the number of rows.
        normalize_advantage: standardise advantages within a minibatch.
        learning_rate: of the optimizer.
        max_grad_norm: gradients are scaled down to this norm.

    Raises:
        UserError: if a setting is out of range.
    """

    def __init__(
        self,
        *,
        gamma: float,
        gae_lambda: float,
        clip_epsilon: float,
        entropy_coef: float,
        value_coef: float,
        n_epochs: int,
        n_minibatches: int,
        normalize_advantage: bool,
        learning_rate: float,
        max_grad_norm: float,
    ) -> None:
        for name, fraction in {"gamma": gamma, "gae_lambda": gae_lambda}.items():
            require(0 <= fraction <= 1, f"algorithm.{name}", fraction, "between 0 and 1")
        positive = {"clip_epsilon": clip_epsilon, "learning_rate": learning_rate, "max_grad_norm": max_grad_norm}
        for name, value in positive.items():
            require(value > 0, f"algorithm.{name}", value, "greater than 0")
        for name, weight in {"entropy_coef": entropy_coef, "value_coef": value_coef}.items():
            require(weight >= 0, f"algorithm.{name}", weight, "at least 0")
        for name, count in {"n_epochs": n_epochs, "n_minibatches": n_minibatches}.items():
            require(count >= 1, f"algorithm.{name}", count, "at least 1")
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.clip_epsilon, self.normalize_advantage = clip_epsilon, normalize_advantage
        self.entropy_coef, self.value_coef = entropy_coef, value_coef
        self.n_epochs, self.n_minibatches = n_epochs, n_minibatches
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self._loss: ClipPPOLoss | None = None

    def check_rows(self, n_rows: int) -> None:
        """Raise :class:`UserError` unless a rollout of ``n_rows`` rows can be cut into the minibatches."""
        allowed = f"at most the {n_rows} rows of a rollout"
        require(self.n_minibatches <= n_rows, "algorithm.n_minibatches", self.n_minibatches, allowed)

    def attach(self, policy: MemoryPolicy) -> None:
        """Build the loss on the policy's heads, on their device; call it before :meth:`loss`."""
        loss = ClipPPOLoss(
            policy.actor,
            policy.critic,
            clip_epsilon=self.clip_epsilon,
            entropy_coeff=self.entropy_coef,
            critic_coeff=self.value_coef,
            loss_critic_type="l2",
            normalize_advantage=self.normalize_advantage,
            functional=False,  # the heads' own parameters, so that DDP sees their gradients
        )
        loss.set_keys(sample_log_prob="action_log_prob")
        self._loss = loss

    @torch.no_grad()
    def prepare(self, policy: MemoryPolicy, rollout: TensorDictBase) -> TensorDict:
        """Return the rows ``[B, T]`` of a rollout with what :meth:`loss` reads.

        Rows that end in the middle of a trial are bootstrapped with the value of the observation after them.
        """
        if bool(rollout.get(("next", "done"))[:, -1].all()):
            last_value = torch.zeros_like(rollout.get("state_value")[:, -1])
        else:
            last_value = _value_after(policy, rollout)
        add_advantages(rollout, last_value, self.gamma, self.gae_lambda)
        learned_from = ("action", "action_log_prob", "state_value", "advantage", "value_target")
        return rollout.select(*policy.in_keys, *learned_from)

    def minibatches(self, rows: TensorDict) -> Iterator[TensorDict]:
        """Yield minibatches of whole rows ``[b, T]`` in random order, each row once."""
        for index in torch.randperm(len(rows)).tensor_split(self.n_minibatches):
            yield rows[index.to(rows.get("action").device)]

    def loss(self, policy: MemoryPolicy, minibatch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of a minibatch ``[b, T]``, and its parts for logging (detached)."""
        assert self._loss is not None, "attach() comes first"
        terms = self._loss(minibatch.set("hidden", policy.hidden(minibatch)))
        total = terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]
        metrics = {
            "policy_loss": terms["loss_objective"],
            "value_loss": terms["loss_critic"],
            "entropy": terms["entropy"],
            "kl": terms["kl_approx"],
            "clip_fraction": terms["clip_fraction"],
        }
        auxiliary = policy.sequence_model.auxiliary_loss()
        if auxiliary is not None:
            total = total + auxiliary
            metrics["memory_loss"] = auxiliary
        return total, {name: value.detach() for name, value in metrics.items()}


def _value_after(policy: MemoryPolicy, rollout: TensorDictBase) -> Tensor:
    """Return the value ``[B, 1]`` of the observation after the last step of each row, zero after a trial."""
    last = rollout[:, -1:].get("next").select(*policy.in_keys)
    hidden = policy.hidden(torch.cat([rollout.select(*policy.in_keys), last], dim=1))[:, -1]
    value = policy.critic(TensorDict({"hidden": hidden}, hidden.shape[:1])).get("state_value")
    return value.masked_fill(rollout.get(("next", "done"))[:, -1], 0.0)
