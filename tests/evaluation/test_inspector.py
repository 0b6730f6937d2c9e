"""The data of a trial page: the trial itself in few bytes, for any environment and memory."""

import base64
import io
import json
import re
import zlib

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from memo_lightning.envs.build import build_env
from memo_lightning.envs.gymnasium.make import action_names_of
from memo_lightning.envs.interface import interface_of
from memo_lightning.evaluation.inspector.frames import FrameAlbum
from memo_lightning.evaluation.inspector.packing import SUMMARY, AttentionLog, quantise, share_of
from memo_lightning.evaluation.inspector.page import fill_page, write_page
from memo_lightning.evaluation.inspector.recording import recorded_trial
from memo_lightning.evaluation.playback import play_trial
from memo_lightning.evaluation.trials import acting
from memo_lightning.evaluation.video import record_trial, trial_frames
from memo_lightning.models import LSTM, FullContextTransformer, MemoTransformer
from memo_lightning.models.attention_recorder import StepAttention, recorded_attention
from memo_lightning.policies import MemoryPolicy, ObservationEncoder
from memo_lightning.policies.heads import ActorCriticHeads, ExploringHeads

ROOM = {"_target_": "memo_lightning.envs.DarkKeyToDoor", "room_size": 3, "episode_length": 6, "trial_length": 23}
GYMNASIUM = {"_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv", "trial_length": 12}
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
MEMORIES = {
    "memo": lambda: MemoTransformer(segment_length=5, summary_length=2, **SIZES),
    "full_context": lambda: FullContextTransformer(**SIZES),
    "lstm": lambda: LSTM(d_model=16, n_layers=1),
}


def make(config=ROOM, memory="memo", heads=ActorCriticHeads):
    """Return one environment and an untrained policy for it."""
    env = build_env(config, 1, 0)
    torch.manual_seed(0)
    interface = interface_of(env)
    model = MEMORIES[memory]() if isinstance(memory, str) else memory
    encoder = ObservationEncoder(interface.observed(), model.d_model)
    return env, MemoryPolicy(encoder, model, heads(model.d_model, interface.action)).eval()


def play(env, policy, max_steps=None):
    """Return the recording of a trial, and its steps."""
    steps = []
    torch.manual_seed(1)
    with acting(deterministic=False), recorded_trial(env, policy, interface_of(env)) as recording:
        for moment in play_trial(env, policy, max_steps):
            recording.look(moment)
            steps.append(moment.step)
    return recording, steps[1:]


def unpack(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.dtype(dtype))


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.parametrize("memory", MEMORIES)
def test_looking_changes_neither_actions_nor_video(memory):
    env, policy = make(memory=memory)
    seen, frames = [], []
    for watched in (False, True):
        env.set_seed(3)
        torch.manual_seed(1)
        actions = []

        def look(moment, actions=actions):
            if moment.step:
                actions.append((int(moment.step.taken["action"]), float(moment.step.taken["state_value"])))

        with acting(deterministic=False):
            if watched:
                with recorded_trial(env, policy, interface_of(env)) as recording:
                    frames.append(list(trial_frames(env, policy, look=lambda m: (look(m), recording.look(m)))))
            else:
                frames.append(list(trial_frames(env, policy, look=look)))
        seen.append((actions, torch.rand(())))
    assert seen[0] == seen[1]
    assert len(frames[0]) == len(frames[1]) > 23
    assert all((one == other).all() for one, other in zip(*frames, strict=True))
    assert recording.n_steps == 23
    assert not policy.heads._forward_pre_hooks


def test_the_data_is_the_trial():
    env, policy = make()
    recording, steps = play(env, policy)
    data = recording.data()
    assert data["n_steps"] == 23
    assert (data["segment_length"], data["summary_length"], data["memory_starts"]) == (5, 2, [0])
    np.testing.assert_allclose(unpack(data["rewards"], "<f4"), [step.reward for step in steps])
    np.testing.assert_allclose(unpack(data["values"], "<f4"), [float(step.taken["state_value"]) for step in steps])
    assert unpack(data["actions"]["chosen"], "<u2").tolist() == [int(step.taken["action"]) for step in steps]
    assert data["actions"]["names"] == ["stay", "up", "down", "left", "right"]
    chances = unpack(data["actions"]["probabilities"], "<u2").reshape(23, 5) / 65535
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-4)
    log_probs = [float(step.taken["action_log_prob"]) for step in steps]
    chosen = unpack(data["actions"]["chosen"], "<u2")
    np.testing.assert_allclose(np.log(chances[np.arange(23), chosen]), log_probs, atol=1e-3)
    (observed,) = data["observations"]
    expected = torch.cat([step.inputs["observation", "observation"] for step in steps])
    np.testing.assert_array_equal(unpack(observed["values"], "<f4").reshape(23, -1), expected)

    ends = [number for number, step in enumerate(steps) if step.ends_episode]
    assert [last for _, last, _, _, is_over in data["episodes"] if is_over] == ends
    for first, last, total, success, is_over in data["episodes"]:
        assert total == pytest.approx(sum(step.reward for step in steps[first : last + 1]))
        assert success is (bool(steps[last].after["success"]) if is_over else None)
    assert data["episodes"][-1][1] == 22
    assert [one[0] for one in data["episodes"][1:]] == [end + 1 for end in ends[: len(data["episodes"]) - 1]]


def test_images_are_those_that_the_agent_acts_in():
    env, policy = make()
    torch.manual_seed(1)
    moments = []
    with acting(deterministic=False), recorded_trial(env, policy, interface_of(env)) as recording:
        for moment in play_trial(env, policy):
            recording.look(moment)
            moments.append(moment)
    frames = recording.data()["frames"]
    assert len(frames["of_step"]) == 23
    assert len(frames["images"]) < 23, "equal ones are kept once"
    for number, image in enumerate(frames["of_step"]):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(frames["images"][image]))))
        np.testing.assert_array_equal(shown, moments[number].image)


@pytest.mark.parametrize("memory", ["memo", "full_context"])
def test_the_page_has_the_attention_of_a_recording_of_its_own(memory):
    env, policy = make(memory=memory)
    recording, steps = play(env, policy)
    packed = recording.data()["attention"]
    n_rows = len(packed["rows"])
    counts = unpack(packed["counts"], "<u2").reshape(23, n_rows)
    tokens, roots = unpack(packed["tokens"], "<u2").tolist(), unpack(packed["roots"], "u1")
    summaries = unpack(packed["summaries"], "u1").reshape(23, n_rows)
    model, state, entry = policy.sequence_model, policy.sequence_model.init_state(1), 0
    with torch.no_grad(), recorded_attention(model) as recorder:
        for t, step in enumerate(steps):
            _, state = model.step(policy.encode(step.inputs), state, step.inputs["is_init"][:, 0])
            for row in range(n_rows):
                n = counts[t, row]
                shares = share_of(roots[entry : entry + n])
                assert shares.sum() == pytest.approx(1, abs=0.02)
                codes = tokens[entry : entry + n]
                expected = recorder.latest.weights[row]
                for token, weight in zip(recorder.latest.tokens.tolist(), expected.tolist(), strict=True):
                    code = token if token >= 0 else SUMMARY - 1 - token
                    assert shares[codes.index(code)] == pytest.approx(weight, abs=0.005)
                read = expected[recorder.latest.tokens < 0].sum()
                assert share_of(summaries[t, row]) == pytest.approx(float(read), abs=0.005)
                entry += n


def test_a_memory_without_attention_has_everything_else():
    recording, _ = play(*make(memory="lstm"))
    data = recording.data()
    assert data["attention"] is None
    assert data["segment_length"] is None
    assert data["frames"]
    assert data["values"]


def test_continuous_actions_and_policies_without_values(tmp_path):
    env, policy = make({**GYMNASIUM, "id": "Pendulum-v1"}, heads=ExploringHeads)
    recording, steps = play(env, policy)
    data = recording.data()
    assert data["values"] is None
    assert data["actions"]["kind"] == "continuous"
    chosen, most_likely = (unpack(data["actions"][name], "<f4") for name in ("chosen", "most_likely"))
    np.testing.assert_allclose(chosen, [float(step.taken["action"]) for step in steps])
    assert (np.abs(most_likely) <= 2).all()
    assert (most_likely != chosen).any()


class Silent(gymnasium.Env):
    """Has two simultaneous actions and a Dict observation, and renders nothing."""

    observation_space = gymnasium.spaces.Dict(
        {"<b>": gymnasium.spaces.Box(-1, 1, (100,)), "eye": gymnasium.spaces.Box(0, 255, (12, 16, 3), np.uint8)}
    )
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        return {"<b>": np.zeros(100, np.float32), "eye": np.full((12, 16, 3), 7, np.uint8)}, {}

    def step(self, action):
        return self.reset()[0], 1.0, False, False, {}

    def render(self):
        return None


def test_an_environment_that_draws_nothing_has_its_observations_and_no_video(tmp_path):
    config = {**GYMNASIUM, "make": Silent}
    env, policy = make({**config, "_target_": "memo_lightning.envs.gymnasium.GymnasiumEnv"})
    with acting(deterministic=False), recorded_trial(env, policy, interface_of(env)) as recording:
        assert record_trial(env, policy, tmp_path / "trial.mp4", look=recording.look) == 0
    assert not (tmp_path / "trial.mp4").exists()
    data = recording.data()
    assert not data["is_drawn"]
    (image,) = data["frames"]["images"]
    assert Image.open(io.BytesIO(base64.b64decode(image))).size == (16, 12)
    assert [(one["name"], one["size"], one["shown"]) for one in data["observations"]] == [("<b>", 100, 64)]
    assert data["actions"]["names"] == ["[0] = 0", "[0] = 1", "[1] = 0", "[1] = 1", "[1] = 2"]
    assert len(unpack(data["actions"]["chosen"], "<u2")) == 24


@pytest.mark.parametrize("max_bytes", [1000, 100_000])
def test_attention_is_kept_from_the_largest_on_as_there_is_room(max_bytes):
    log = AttentionLog([("1", 1), ("1", 2)], max_bytes)
    generator = torch.Generator().manual_seed(0)
    all_weights = []
    for t in range(60):
        weights = (3 * torch.randn(2, t + 1, generator=generator)).softmax(-1)
        all_weights += weights.tolist()
        log.add(StepAttention(torch.arange(t + 1), weights, torch.zeros(2)))
    packed = log.packed()
    assert len(base64.b64decode(packed["tokens"])) + len(base64.b64decode(packed["roots"])) <= max_bytes
    kept = share_of(unpack(packed["roots"], "u1"))
    assert len(unpack(packed["tokens"], "<u2")) == len(kept) == unpack(packed["counts"], "<u2").sum()
    ends = unpack(packed["counts"], "<u2").cumsum()
    for of_row, shares in zip(all_weights, np.split(kept, ends[:-1]), strict=True):
        np.testing.assert_allclose(sorted(shares), sorted(of_row)[len(of_row) - len(shares) :], atol=0.005)
        assert len(shares), "the largest of every row is kept"
    assert packed["sinks"] is None
    if max_bytes == 1000:
        assert 300 < len(kept) < 2000
        assert packed["threshold"] > 0.01
    else:
        assert packed["threshold"] == 0


def test_of_attention_that_is_the_same_everywhere_nothing_is_worth_keeping_but_what_stands_out():
    log = AttentionLog([("1", 1), ("1", 2)], max_bytes=900)
    for t in range(400):
        even = torch.full((t + 1,), 1 / (t + 1))
        log.add(StepAttention(torch.arange(t + 1), torch.stack([even, torch.eye(t + 1)[t]]), torch.zeros(2)))
    packed = log.packed()
    assert unpack(packed["counts"], "<u2").reshape(400, 2)[100:].tolist() == [[0, 1]] * 300


def test_shares_keep_their_first_digit():
    shares = np.array([0, 0.0005, 0.002, 0.01, 0.3, 1.0])
    np.testing.assert_allclose(share_of(quantise(shares)), shares, rtol=0.12)


def test_photographs_are_made_as_small_as_they_must_be():
    generator = np.random.default_rng(0)
    smooth = [generator.integers(0, 255, (6, 8, 3), np.uint8).repeat(60, 0).repeat(60, 1) for _ in range(40)]
    images = [(image + generator.integers(0, 8, image.shape, np.uint8)).astype(np.uint8) for image in smooth]
    sizes = []
    for max_bytes in (10_000_000, 60_000):
        album = FrameAlbum()
        for image in [*images, images[0]]:
            album.add(image)
        packed = album.packed(max_bytes)
        assert packed["of_step"] == [*range(40), 0]
        decoded = [base64.b64decode(image) for image in packed["images"]]
        assert sum(map(len, decoded)) <= max_bytes
        sizes.append(Image.open(io.BytesIO(decoded[0])).size)
    assert sizes[0] == (480, 360)
    assert sizes[1][0] < 200


def test_what_environments_call_their_actions():
    class Atari(gymnasium.Env):
        def get_action_meanings(self):
            return ["NOOP", "UP_FIRE"]

    assert action_names_of(Atari()) == ("noop", "up fire")
    assert action_names_of(gymnasium.make("CartPole-v1")) == ()


def test_names_of_users_are_data_and_end_no_script(tmp_path):
    name = "</script><script>alert(1)</script> {{data}} <!--"
    page = fill_page(name, {"subtitle": "{{style}}"})
    assert page.count("<script") == 2
    assert data_of(page) == {"title": name, "subtitle": "{{style}}"}
    assert "&lt;/script&gt;" in page


def test_a_page_needs_nothing_but_itself(tmp_path):
    recording, _ = play(*make())
    write_page(tmp_path / "trial.html", "a trial", "23 steps", recording, "MemoTransformer")
    page = (tmp_path / "trial.html").read_text()
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    for word in ("http://", "https://", "//cdn", "@import", "url(", "localStorage", "eval(", "innerHTML", "src="):
        assert word not in code.replace('src="data:', "").replace("<img", ""), word
    assert "default-src 'none'" in page
