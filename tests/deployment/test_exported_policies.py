"""An exported policy acts like the agent and describes its own inputs and state."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.deployment import check, export, formats
from memo_lightning.deployment.policy_step import PolicyStep
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel
from memo_lightning.models.fixed_state import trace
from memo_lightning.policies import Interface
from memo_lightning.policies.action import Action
from memo_lightning.policies.observation_keys import observation_keys
from untrained import save_untrained

pytest.importorskip("onnxruntime", reason="the export extra is not installed")

STACK = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
SEGMENTS = {**STACK, "segment_length": 5, "summary_length": 2}
MODELS = "memo_lightning.models"
MEMORIES = {
    "memo": {"_target_": f"{MODELS}.MemoTransformer", **SEGMENTS, "sink_kv": True, "memory_budget": 11},
    "limited_age": {"_target_": f"{MODELS}.MemoTransformer", **SEGMENTS, "memory_budget": 11, "max_summary_age": 2},
    "direct_kv": {"_target_": f"{MODELS}.DirectKVTransformer", **SEGMENTS, "memory_budget": 9},
    "rmt": {"_target_": f"{MODELS}.RecurrentMemoryTransformer", **SEGMENTS},
    "retrieval": {"_target_": f"{MODELS}.RetrievalMemory", **SEGMENTS, "top_k": 6, "memory_budget": 11},
    "full_context": {"_target_": f"{MODELS}.FullContextTransformer", **STACK, "memory_budget": 12},
    "no_iea": {
        "_target_": f"{MODELS}.FullContextTransformer",
        **STACK,
        "memory_budget": 12,
        "memory_scope": "episode",
        "sink_kv": True,
    },
    "lstm": {"_target_": f"{MODELS}.LSTM", "d_model": 16, "n_layers": 2},
    "gru": {"_target_": f"{MODELS}.GRU", "d_model": 16, "n_layers": 2},
    "memoryless": {"_target_": f"{MODELS}.Memoryless", "d_model": 16, "n_layers": 2, "d_ff": 32},
}
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
NESTED = spaces.Dict(
    body=spaces.Dict(joints=VECTOR, gripper=spaces.Discrete(3, start=1)),
    camera=spaces.Box(0, 255, (3, 10, 12), np.uint8),
    extra=spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2, 2), np.float64)]),
)
FRAMES = spaces.Box(0, 255, (2, 10, 12, 3), np.uint8)
BOUNDED = spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 3.0]), (2,), np.float64)


def save_policy(path, memory, observation=VECTOR, action=spaces.Discrete(4), *, masked=False, reward=True, **settings):  # noqa: B008
    """Write a checkpoint of an untrained policy."""
    interface = Interface(observation, observation_keys(observation), Action(action, masked), reward)
    save_untrained(path, interface, memory, config={"env": {"trial_length": 30}}, scale=3, **settings)
    return path


class InTurn:
    """Runs several programs, each with its own state, checks that they agree, and returns their answer."""

    def __init__(self, programs):
        self.programs, self.states = programs, [{} for _ in programs]

    def __call__(self, inputs):
        outputs = []
        for program, state in zip(self.programs, self.states, strict=True):
            outputs.append(program(inputs | state))
            after = {k.removeprefix("next_"): v for k, v in outputs[-1].items() if k.startswith("next_state.")}
            state.update({k: v for k, v in after.items() if k != "state.previous_action"})  # the agent sets this itself
            for name, value in outputs[-1].items():
                first = outputs[0][name].astype(float)
                assert value.shape == first.shape, name
                assert (abs(value - first) <= 1e-4 + 1e-4 * abs(first)).all(), name
        return outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMORIES)
def test_three_thousand_steps_of_both_formats_equal_the_agent(name, tmp_path):
    """In one of the three environments, a trial begins only once and is far longer than any in training."""
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", MEMORIES[name]))
    step = PolicyStep(agent, batch_size=3)
    inputs, outputs = ([named.name for named in side] for side in (step.inputs(), step.outputs()))
    traced = trace(step, ({named.name: named.value for named in step.inputs()},))
    programs = []
    for kind in formats.FORMATS.values():
        kind.write(traced, tmp_path / kind.file, inputs, outputs)
        programs.append(kind.read(tmp_path / kind.file))
    for program in programs:
        assert check.compare(program, step, agent, n_steps=1).n_steps == 1
    compared = check.compare(InTurn(programs), step, agent, n_steps=3000)
    assert compared.difference < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"observation": NESTED, "action": spaces.MultiDiscrete([2, 4], start=[0, -1]), "normalize_observations": True},
        {"observation": FRAMES, "action": spaces.MultiBinary(2), "reward": False},
        {"action": spaces.Discrete(4, start=-1), "masked": True},
        {"action": spaces.MultiDiscrete([2, 3]), "masked": True},
        {"action": BOUNDED, "normalize_observations": True, "normalize_rewards": True},
        {"observation": spaces.Discrete(5, start=2), "action": spaces.Box(0, 9, (2, 1), np.int32)},
    ],
    ids=["nested", "frames, no reward", "masked", "several masked", "continuous, normalised", "whole numbers"],
)
def test_observations_and_actions_of_every_kind_go_in_and_out_as_the_environment_has_them(settings, tmp_path):
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", MEMORIES["gru"], **settings))
    compared = export.export_policy(agent, tmp_path / "out", batch_size=2)
    assert compared.difference < 1e-5
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "out/policy.onnx")
    assert b"policy_step.py" not in (tmp_path / "out/policy.onnx").read_bytes(), "paths of this machine"
    described = json.loads((tmp_path / "out/policy.json").read_text())
    state = described["state"]
    for side, named, of_state in (
        (session.get_inputs(), described["inputs"], "input"),
        (session.get_outputs(), described["outputs"], "output"),
    ):
        shapes = {entry["name"]: entry["shape"] for entry in named} | {s[of_state]: s["shape"] for s in state}
        assert {given.name: given.shape for given in side} == shapes
    for key in agent.spec.interface.keys:
        shape = next(entry["shape"] for entry in described["inputs"] if entry["name"].endswith(key.name))
        assert shape == [2, *key.space.shape]


def test_actions_that_are_drawn_as_described_are_those_of_the_agents_distribution(tmp_path):
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", MEMORIES["memoryless"], action=BOUNDED))
    step = PolicyStep(agent, batch_size=1)
    outputs = {named.name: named.value for named in step.outputs()}
    how = step.sampling()
    low, high = (np.array(how[end]) for end in ("low", "high"))
    noise = np.random.default_rng(0).normal(size=(4000, 2))
    drawn = low + (high - low) * (np.tanh(outputs["loc"].numpy() + outputs["scale"].numpy() * noise) + 1) / 2
    acted = np.array([agent.act(np.zeros(3), agent.initial_state())[0] for _ in range(1000)])
    np.testing.assert_allclose(drawn.mean(0), acted.mean(0), atol=0.1)
    np.testing.assert_allclose(drawn.std(0), acted.std(0), atol=0.1)


class OwnMemory(SequenceModel):
    """Sums its inputs; ``kind`` selects the mistake it makes."""

    state_names = ("sum",)

    def __init__(self, d_model, kind="fine"):
        super().__init__(d_model)
        self.kind = kind
        self.weight = torch.nn.Parameter(torch.ones(d_model))

    def forward(self, x, is_init=None, segment_length=None):
        raise NotImplementedError

    def init_state(self, batch_size):
        return memo_lightning.policies.agent.TensorDict({"sum": torch.zeros(batch_size, self.d_model)}, [batch_size])

    def step(self, x_t, state, is_init=None):
        state["sum"].masked_fill_(is_init[:, None], 0)
        state["sum"] += x_t
        if self.kind == "branches" and state["sum"].sum() > 3:
            return x_t, state
        if self.kind == "grows":
            state["sum"] = torch.cat([state["sum"], x_t], 1)
        if self.kind == "not in ONNX":
            return x_t + torch.linalg.svdvals(x_t[:, None]), state
        return torch.tanh(state["sum"][:, : self.d_model] * self.weight), state


def own(kind):
    return {"_target_": f"{__name__}.OwnMemory", "d_model": 16, "kind": kind}


def test_a_memory_of_ones_own_whose_step_can_be_traced_is_exported(tmp_path):
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", own("fine")))
    assert export.export_policy(agent, tmp_path / "out").difference < 1e-5
    assert [s["output"] for s in json.loads((tmp_path / "out/policy.json").read_text())["state"]] == [
        "next_state.previous_action",
        "next_state.sum",
    ]


@pytest.mark.parametrize(
    ("kind", "said"), [("branches", r"torch\.export cannot trace"), ("grows", "its state has no fixed shape")]
)
def test_a_memory_of_ones_own_that_cannot_be_exported_is_refused_in_a_line(kind, said, tmp_path):
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", own(kind)))
    with pytest.raises(UserError, match=rf"^OwnMemory cannot be exported: .*{said}") as error:
        export.export_policy(agent, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_an_operation_that_onnx_has_not_is_refused_in_a_line_and_torch_takes_it(tmp_path):
    agent = memo_lightning.load(save_policy(tmp_path / "last.ckpt", own("not in ONNX")))
    with pytest.raises(UserError, match=r"^OwnMemory, format=onnx: cannot be exported \(.*svd") as error:
        export.export_policy(agent, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert export.export_policy(agent, tmp_path / "out", "torch").difference < 1e-5


UNBOUNDED = {name: {**MEMORIES[name], "memory_budget": None} for name in ("memo", "full_context")}


@pytest.mark.parametrize(
    ("memory", "words", "said"),
    [
        (
            UNBOUNDED["memo"],
            [],
            "memory_budget=null: must be a number to export MemoTransformer, .* memory_budget=15 keeps",
        ),
        (
            UNBOUNDED["full_context"],
            [],
            r"FullContextTransformer, .* memory_budget=30 keeps a whole trial of 30 steps",
        ),
        (UNBOUNDED["memo"], ["memory_budget=6"], "memory_budget=6: must be at least 7"),
        (MEMORIES["lstm"], ["memory_budget=64"], "memory_budget=64: must be None, as LSTM has no cache to bound"),
        (MEMORIES["lstm"], ["format=tflite"], "format='tflite': must be one of onnx, torch"),
        (MEMORIES["lstm"], ["batch_size=0"], "batch_size=0: must be at least 1"),
        (MEMORIES["lstm"], ["out=there"], "out=there: exists already; must be a new folder, e.g. out=there-2"),
        (MEMORIES["lstm"], ["out=file/in"], "out=file/in: must be writable"),
        (MEMORIES["lstm"], ["checkpoint=null"], "checkpoint=null: must be the path"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_line(memory, words, said, in_tmp_dir, capsys):
    save_policy(in_tmp_dir / "last.ckpt", memory)
    (in_tmp_dir / "there").mkdir()
    (in_tmp_dir / "file").write_text("")
    given = [] if "checkpoint=null" in words else ["checkpoint=last.ckpt"]
    assert main(["export", *given, "out=new", *words]) == 2
    error = capsys.readouterr().err.splitlines()
    line = next(line for line in error if line.startswith("memo: "))
    assert re.search(said, line), line
    assert line == error[-1]
    assert sorted(path.name for path in in_tmp_dir.iterdir()) == ["file", "last.ckpt", "there"]


def test_without_the_extra_onnx_is_refused_and_says_what_to_install(in_tmp_dir, capsys, monkeypatch):
    save_policy(in_tmp_dir / "last.ckpt", MEMORIES["memoryless"])
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export", "checkpoint=last.ckpt"]) == 2
    line = "memo: format=onnx: needs onnxscript; pip install 'memo-lightning[export]', or use format=torch\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
def test_the_budget_that_is_suggested_exports_all_that_the_agent_remembers(in_tmp_dir, capsys):
    save_policy(in_tmp_dir / "last.ckpt", UNBOUNDED["memo"])
    assert main(["export", "checkpoint=last.ckpt"]) == 2
    (remedy,) = [
        word for word in capsys.readouterr().err.split() if word.startswith("memory_budget=") and "null" not in word
    ]
    assert main(["export", "checkpoint=last.ckpt", "format=torch", remedy]) == 0
    assert "equal to the policy's within" in capsys.readouterr().out
    with zipfile.ZipFile("export/policy.pt2") as file:
        assert not [name for name in file.namelist() if b"policy_step.py" in file.read(name)], "paths of this machine"
    program = formats.FORMATS["torch"].read(in_tmp_dir / "export/policy.pt2")
    agent = memo_lightning.load("last.ckpt")  # with unlimited memory
    state, x = agent.initial_state(), np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    described = json.loads((in_tmp_dir / "export/policy.json").read_text())
    inputs = {s["input"]: np.full(s["shape"], s["initial"], s["dtype"]) for s in described["state"]}
    inputs |= {"reward": np.zeros(1, np.float32), "episode_end": np.zeros(1, bool)}
    for t in range(30):
        outputs = program({"observation": x[t, None], "is_first": np.array([t == 0]), **inputs})
        action, state = agent.act(x[t], state, deterministic=True)
        assert outputs["action"] == action
        inputs |= {s["input"]: outputs[s["output"]] for s in described["state"]}
