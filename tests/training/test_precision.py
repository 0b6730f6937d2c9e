"""Other precisions and the compiled model learn the same."""

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from memo_lightning import load
from memo_lightning.cli.main import main
from memo_lightning.envs.build import build_env
from memo_lightning.policies.precision import full_precision
from tiny import TINY_TRAINING

TINY = [
    *TINY_TRAINING,
    "total_frames=640",
    "algorithm.n_minibatches=2",
    "logger=none",
]


class Metrics(lightning.Callback):
    """Records what was logged after every rollout."""

    seen: list[dict]

    def on_train_batch_end(self, trainer, *_):
        type(self).seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def metrics(*overrides):
    Metrics.seen = []
    assert main(["train", *TINY, f"+callbacks.seen._target_={__name__}.Metrics", *overrides]) == 0
    return Metrics.seen


@pytest.fixture
def in_32_bits(in_tmp_dir):
    return metrics("run_dir=32", "trainer.precision=32")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_reduced_precision_learns_the_same_to_its_rounding(precision, in_32_bits):
    reduced = metrics("run_dir=reduced", f"trainer.precision={precision}")
    for one, other in zip(in_32_bits[:1], reduced[:1], strict=True):
        for name in ("update/entropy", "update/value_loss", "update/gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=0.05)
            assert other[name] != one[name], "it was 32 bits after all"


@pytest.mark.parametrize("overflow", [False, True])
def test_gradients_that_are_scaled_for_16_bits_are_clipped_as_if_they_were_not(overflow):
    torch.manual_seed(0)
    weights, x = torch.randn(4, 4), torch.randn(8, 4)
    steps = []
    for scale in (1.0, 1024.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        steps.append(_one_step(weights.clone(), x * (torch.inf if overflow else 1.0), scaler))
        if overflow:
            assert scaler.get_scale() == scale / 2, "the scaler tries a smaller scale next"
    torch.testing.assert_close(*steps)
    assert torch.equal(steps[0], weights) == overflow, "updates that overflow are skipped"


def _one_step(weights, x, scaler):
    """Return the weights after one update of a learner with this loss scale and its own gradient clipping."""
    from memo_lightning.training.learner import PolicyLearner

    class Learner(lightning.LightningModule):
        _clip_gradients, _gradient_scaler = PolicyLearner._clip_gradients, PolicyLearner._gradient_scaler

        class algorithm:
            max_grad_norm = 0.5

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.weights = torch.nn.Parameter(weights)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            self.manual_backward((batch @ self.weights).float().square().mean())
            self._clip_gradients()
            optimizer.step()

    learner = Learner()
    trainer = lightning.Trainer(
        accelerator="cpu",
        plugins=MixedPrecision("16-mixed", "cpu", scaler),
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, torch.utils.data.DataLoader([x], batch_size=None))
    return learner.weights.detach()


@pytest.mark.slow
def test_the_compiled_model_learns_the_same(in_32_bits):
    compiled = metrics("run_dir=compiled", "compile=true")
    for one, other in zip(in_32_bits, compiled, strict=True):
        for name in ("update/entropy", "update/value_loss", "update/gradient_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-3)


@pytest.mark.parametrize("baseline", ["none", "full_context", "lstm"])
def test_half_precision_changes_the_policy_by_next_to_nothing(baseline, in_tmp_dir):
    """Compares acting in float32 with the bf16 pass of an update, with the same weights on the same trials."""
    training = ["trainer.precision=bf16-mixed", "algorithm.learning_rate=0.005", "algorithm.n_epochs=2"]
    assert main(["train", *TINY, *training, "total_frames=9600", "run_dir=run", f"baseline={baseline}"]) == 0
    agent = load("run")
    policy, config = agent.policy, agent.training["config"]
    for critic_scale in (1.0, 1000.0):
        if critic_scale > 1:  # at this size bfloat16 resolves values only to about eight
            critic = policy.heads.critic.module
            critic.weight.data *= critic_scale
            critic.bias.data += 2 * critic_scale
        with torch.no_grad():
            rollout = build_env(config["env"], 16, 1).rollout(40, policy, break_when_any_done=False)
        acting = acting_distribution(policy, rollout)
        torch.testing.assert_close(acting.log_prob(rollout["action"]), rollout["action_log_prob"])
        assert float(acting.entropy().mean()) < 0.97 * float(torch.tensor(5.0).log()), "it has learned something"

        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden = policy.hidden(rollout)
            with full_precision(policy.device):
                inputs = policy.head_inputs(hidden, rollout)
                updating = policy.actor.get_dist(inputs)
                values = policy.heads.critic(inputs)["state_value"]
        assert {hidden.dtype, updating.logits.dtype, values.dtype} == {torch.float32}
        kl = torch.distributions.kl_divergence(acting, updating).mean()
        assert float(kl) < 1e-4
        assert (float(kl) > 0) == (baseline != "lstm"), "on the CPU torch's cells are float32, all else is half"
        assert float((values - rollout["state_value"]).abs().mean()) < 0.05 * float(rollout["state_value"].std())
        assert critic_scale == 1 or float(rollout["state_value"].mean()) > 1000


@torch.no_grad()
def acting_distribution(policy, rollout):
    """Step through the observations of a policy, as it did while acting."""
    state, steps = policy.sequence_model.init_state(len(rollout)), []
    for inputs in rollout.unbind(1):
        hidden, state = policy.sequence_model.step(policy.encode(inputs), state, policy.memory_starts(inputs))
        steps.append(hidden)
    return policy.actor.get_dist(policy.head_inputs(torch.stack(steps, 1), rollout))
