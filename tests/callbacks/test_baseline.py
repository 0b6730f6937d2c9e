"""Baselines: one override replaces the memory and nothing else."""

import json
import sys

import pytest
import torch

from memo_lightning.callbacks import Baseline
from memo_lightning.cli.main import main
from memo_lightning.config import config_dir
from memo_lightning.errors import UserError
from memo_lightning.policies.checkpoint import read_checkpoint, restore_policy
from tiny import TINY_TRAINING

BASELINES = sorted(path.stem for path in (config_dir() / "baseline").glob("*.yaml"))
TINY = [
    *TINY_TRAINING,
    "collector.n_chunks=5",  # the first ends before the first segment
    "total_frames=640",
    "logger=none",
    "run_dir=run",
]
OWN_MODEL = """
import torch
from tensordict import TensorDict
from memo_lightning.models import SequenceModel

class Blur(SequenceModel):
    def __init__(self, d_model, rate=0.5):
        super().__init__(d_model)
        self.rate = torch.nn.Parameter(torch.tensor(rate))

    def forward(self, x, is_init=None, segment_length=None):
        return x * self.rate

    def init_state(self, batch_size):
        return TensorDict({}, [batch_size])

    def step(self, x_t, state, is_init=None):
        return x_t * self.rate, state

class Unfinished(SequenceModel):
    pass

class Foreign:
    pass
"""


@pytest.fixture
def own_module(in_tmp_dir, monkeypatch):
    (in_tmp_dir / "own_model.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(in_tmp_dir)
    yield in_tmp_dir
    sys.modules.pop("own_model", None)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_trains_and_its_checkpoint_acts(name, own_module, capsys):
    own = ["baseline.target=own_model.Blur", "baseline.settings.rate=0.7"] if name == "custom" else []
    assert main(["train", *TINY, f"baseline={name}", *own]) == 0
    said = capsys.readouterr().err
    assert (name == "none") == ("in place of MemoTransformer" not in said)
    called = {"none": "memo", "custom": "Blur"}.get(name, name)
    assert json.loads((own_module / "run" / "metrics.json").read_text())["baseline"] == called
    assert main(["evaluate", "checkpoint=run/checkpoints/last.ckpt", "n_trials=4", "trial_multiplier=2"]) == 0
    evaluation = json.loads((own_module / "run" / "evaluation" / "evaluation.json").read_text())
    assert evaluation["trial_length"] == 80


def test_the_swap_happens_before_optimizer_and_collector(in_tmp_dir):
    assert main(["train", *TINY, "baseline=gru"]) == 0
    checkpoint = read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")
    weights = checkpoint["state_dict"]
    trained = checkpoint["optimizer_states"][0]["state"]
    parameters = weights.keys() - {"policy.weights_version"}
    assert len(trained) == len(parameters), "the optimizer holds the new model's parameters and no others"
    assert any("rnn" in name for name in weights)
    assert not any("summary_queries" in name for name in weights)


def test_settings_are_those_of_the_model_group(in_tmp_dir):
    assert main(["train", *TINY, "baseline=full_context", "model.n_layers=3"]) == 0
    weights = read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    assert any("blocks.2." in name for name in weights)


def test_segments_are_recomputed_in_the_baselines_that_can():
    shared = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 16, "checkpoint_segments": True}
    segments = {"segment_length": 5, "summary_length": 2}
    models = "memo_lightning.models"
    assert Baseline(target=f"{models}.RecurrentMemoryTransformer", shared=shared | segments).model.checkpoint_segments
    assert "checkpoint_segments" not in Baseline(target=f"{models}.LSTM", shared=shared | segments).memory


def test_what_the_swap_says(make_env, make_policy, capsys):
    class Stage:
        is_global_zero = True

    class Learner:
        policy = make_policy(make_env(2, 0))

    baseline = Baseline(target="memo_lightning.models.LSTM", shared={"d_model": 16, "n_layers": 1, "d_ff": 32})
    assert baseline.memory == {"_target_": "memo_lightning.models.LSTM", "d_model": 16, "n_layers": 1}
    baseline.setup(Stage(), Learner(), "fit")
    said = capsys.readouterr().err
    expected = 4 * 16 * (16 + 16 + 2)
    assert f"LSTM in place of MemoTransformer, {expected:,} parameters instead of" in said


def test_attention_within_the_episode_forgets_at_its_end(make_env, make_policy):
    env = make_env(4, 0)
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32}
    policies = {}
    for name, own in {"no_iea": {"memory_scope": "episode"}, "full": {}}.items():
        policies[name] = make_policy(env)
        torch.manual_seed(1)
        target = "memo_lightning.models.FullContextTransformer"
        Baseline(target=target, shared=sizes, **own).apply(policies[name])
    with torch.no_grad():
        rollout = env.rollout(12, policies["no_iea"], break_when_any_done=False)
        changed = rollout.clone()
        changed["observation", "observation"][:, 0] += 1
        later = rollout["episode_end"].squeeze(-1).cumsum(1) > 0  # after the first episode
        assert later.any()
        reach = {
            name: (policy.hidden(rollout) - policy.hidden(changed)).abs().sum(-1)[later].max()
            for name, policy in policies.items()
        }
    assert reach["no_iea"] == 0
    assert reach["full"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["baseline=lstm", "baseline.d_model=8"], "baseline.d_model=8: must be 16"),
        (["baseline=custom"], "baseline.target=null"),
        (["baseline=custom", "baseline.target=nowhere.Model"], "baseline.target=nowhere.Model: cannot be imported"),
        (["baseline=custom", "baseline.target=own_model.Foreign"], "must be a subclass of"),
        (["baseline=custom", "baseline.target=own_model.Unfinished"], "must implement forward, init_state, step"),
        (["baseline=custom", "baseline.target=own_model.Blur", "baseline.settings.depth=1"], "'depth'"),
        (
            ["baseline=rmt", "baseline.segment_length=50"],
            "baseline.segment_length=50: must be at most 40, the steps",
        ),
        (["baseline=retrieval", "baseline.top_k=9", "baseline.memory_budget=14"], "top_k=9"),
        (["baseline=full_contxt"], "did you mean full_context"),
        (
            ["baseline=full_context", "model.memory_budget=14"],
            "model.memory_budget=14: must be null with a baseline; set baseline.memory_budget=14",
        ),
        (["baseline=lstm", "model.memory_budget=14"], "model.memory_budget=14: must be null with a baseline\n"),
        (["baseline=direct_kv", "model.max_summary_age=2"], "model.max_summary_age=2: must be null with a baseline\n"),
        (
            ["baseline=autocompressor", "baseline.memory_budget=100"],
            "baseline.memory_budget=100: must be null in training with gradient_segments=2",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(overrides, message, own_module, capsys):
    assert main(["train", *TINY, *overrides]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not (own_module / "run").exists()


def test_weights_of_another_memory_are_refused(in_tmp_dir):
    assert main(["train", *TINY, "baseline=lstm"]) == 0
    checkpoint = read_checkpoint(in_tmp_dir / "run" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"model.n_layers=3 \(checkpoint: 2\)"):
        restore_policy(checkpoint, {"n_layers": 3})
