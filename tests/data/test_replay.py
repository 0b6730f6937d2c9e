"""The trial replay keeps the newest trials, samples them by rule, survives a stop, and fits on its disk."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from memo_lightning.data import replay as replay_module
from memo_lightning.data.replay import TrialReplay
from memo_lightning.errors import TrainingStopped, UserError

SETTINGS = {
    "capacity_trials": 6,
    "capacity_bytes": None,
    "trial_length": 3,
    "batch_size": 4,
    "sampling": "uniform",
    "alpha": 1.0,
    "beta": 0.5,
    "folder": None,
}
TRIAL_BYTES = 4 * (1 + 4 + 8)


def make_trials(*numbers, length=3):
    """Return trials that contain their own number at every step."""
    value = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(-1, 4, 1).clone()
    valid = (torch.arange(4) < length).expand(len(numbers), 4).clone()
    return TensorDict(
        {"valid": valid, "observation": {"a/b": value}, "action": value.squeeze(-1).long()}, [len(numbers), 4]
    )


def opened(folder, progress=None, **changes):
    replay = TrialReplay(**{**SETTINGS, **changes})
    if progress is not None:
        replay.load_progress(progress)
    replay.plan(make_trials(0)[0], folder, 1, is_resumed=progress is not None)
    replay.open(make_trials(0)[0], folder, 0)
    return replay


def held(replay):
    number = replay._keys.index("action")
    return sorted(replay._trials[str(number)][: len(replay), 0].tolist())


def test_the_newest_trials_are_held_and_sampled_alike(tmp_path):
    replay = opened(tmp_path)
    replay.extend(make_trials(1, 2, 3, 4))
    assert held(replay) == [1, 2, 3, 4]
    replay.extend(make_trials(5, 6, 7, 8))
    assert held(replay) == [3, 4, 5, 6, 7, 8]
    replay.extend(make_trials(*range(10, 26)))  # more than fit
    assert held(replay) == list(range(20, 26))
    torch.manual_seed(0)
    counts = Counter(n for _ in range(500) for n in replay.sample().trials["action"][:, 0].tolist())
    assert sorted(counts) == list(range(20, 26))
    assert max(counts.values()) < 1.3 * min(counts.values())


def test_a_batch_is_as_long_as_its_longest_trial(tmp_path):
    replay = opened(tmp_path)
    replay.extend(make_trials(1, 2, length=1))
    assert replay.sample().trials.shape == (4, 2)
    replay.extend(make_trials(3, 4, 5, 6, length=2))
    assert max(replay.sample().trials.shape[1] for _ in range(20)) == 3


def test_prioritised_sampling_is_in_proportion_to_the_errors_of_trials(tmp_path):
    replay = opened(tmp_path, sampling="prioritized")
    replay.extend(make_trials(0, 1, 2, 3))
    replay.set_errors(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 10.0]))
    torch.manual_seed(0)
    batches = [replay.sample() for _ in range(1000)]
    counts = Counter(n for batch in batches for n in batch.trials["action"][:, 0].tolist())
    for number, error in enumerate((1.0, 2.0, 3.0, 10.0)):
        assert counts[number] / 4000 == pytest.approx(error / 16, abs=0.02)
    batch = next(batch for batch in batches if {0, 3} <= set(batch.index.tolist()))
    weight = dict(zip(batch.index.tolist(), batch.weight.tolist(), strict=True))
    assert weight[0] / weight[3] == pytest.approx(10**0.5, rel=1e-3)
    assert max(weight.values()) == 1.0


@pytest.mark.parametrize("sampling", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_before", [3, 7, 12])
def test_a_replay_that_was_stopped_after_its_checkpoint_is_found_as_it_was_then(tmp_path, sampling, n_before):
    replay = opened(tmp_path, sampling=sampling)
    for number in range(n_before):
        replay.extend(make_trials(number))
        replay.set_errors(torch.tensor([number % 6]), torch.tensor([1.0 + number]))
    progress = replay.progress()
    torch.save(progress, tmp_path / "progress.pt")
    replay.checkpoint_saved()
    before = replay._trials[: len(replay)].clone()
    for number in range(100, 117):  # wraps around more than twice, then is killed
        replay.extend(make_trials(number))
        replay.set_errors(torch.tensor([number % 6]), torch.tensor([50.0]))
    again = opened(tmp_path, torch.load(tmp_path / "progress.pt", weights_only=True), sampling=sampling)
    assert (again._trials[: len(again)] == before).all()
    assert (len(again), again.n_added) == (min(6, n_before), n_before)
    # It then continues like a replay that never stopped.
    other = opened(tmp_path / "other", sampling=sampling)
    for number in range(n_before):
        other.extend(make_trials(number))
        other.set_errors(torch.tensor([number % 6]), torch.tensor([1.0 + number]))
    for one in (again, other):
        one.extend(make_trials(200, 201))
    for seed in range(20):
        batches = []
        for one in (again, other):
            torch.manual_seed(seed)
            batches.append(one.sample())
        assert torch.equal(batches[0].index, batches[1].index)
        assert torch.equal(batches[0].weight, batches[1].weight)
        assert (batches[0].trials == batches[1].trials).all()


def test_it_says_what_disk_it_takes_and_takes_it_at_once(tmp_path):
    replay = TrialReplay(**{**SETTINGS, "capacity_trials": 1000})
    root = tmp_path / "replay"
    assert replay.plan(make_trials(0)[0], root, 2, is_resumed=False) == (
        f"replay: up to 1,000 trials for each of 2 processes, 104 KB on disk in {root}"
    )
    assert not root.exists(), "nothing is written before it is known that all is well"
    replay.open(make_trials(0)[0], root, 1)
    files = list((root / "rank1").rglob("*.memmap"))
    assert sum(path.stat().st_size for path in files) == 1000 * TRIAL_BYTES
    assert sum(path.stat().st_blocks * 512 for path in files) >= 1000 * TRIAL_BYTES, "no holes"


def test_a_capacity_in_bytes_is_as_many_trials_as_fit(tmp_path):
    assert opened(tmp_path, capacity_trials=100, capacity_bytes=10 * TRIAL_BYTES + 1).capacity == 10


def test_a_disk_that_cannot_hold_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100 * TRIAL_BYTES))
    replay = TrialReplay(**{**SETTINGS, "capacity_trials": 300})
    message = r"capacity_trials=300: must be at most 100, as it takes 15\.6 KB on disk and .* has 5\.2 KB free"
    with pytest.raises(UserError, match=message):
        replay.plan(make_trials(0)[0], tmp_path / "replay", 1, is_resumed=False)


def test_a_disk_that_fills_up_meanwhile_stops_the_run(tmp_path, monkeypatch):
    replay = opened(tmp_path)
    replay.extend(make_trials(*range(6)))

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memo_lightning.data.overwritten.write_atomically", full)
    with pytest.raises(TrainingStopped, match=r"trials of the replay cannot be written .No space left on device"):
        replay.extend(make_trials(7))
    assert held(replay) == list(range(6)), "what was there is there"

    def too_small(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replay_module.os, "posix_fallocate", too_small)
    with pytest.raises(TrainingStopped, match=r"the replay cannot be written .No space left on device"):
        TrialReplay(**SETTINGS).open(make_trials(0)[0], tmp_path / "other", 0)


def test_a_run_that_was_stopped_before_its_first_trial_begins_its_replay(tmp_path):
    for _ in range(2):  # the second time after a stop with the disk already reserved
        replay = opened(tmp_path, progress=[])
        replay.extend(make_trials(1, 2))
        assert held(replay) == [1, 2]


def test_another_number_of_processes_is_refused(tmp_path):
    progress = opened(tmp_path).progress()
    replay = TrialReplay(**SETTINGS)
    replay.load_progress(progress)
    with pytest.raises(UserError, match=r"trainer\.devices=2: must be such that the number of processes stays 1"):
        replay.plan(make_trials(0)[0], tmp_path, 2, is_resumed=True)


def test_a_folder_of_another_replay_is_refused(tmp_path):
    progress = opened(tmp_path).progress()
    with pytest.raises(UserError, match="must be empty or new"):
        opened(tmp_path)
    with pytest.raises(UserError, match="has a capacity of 6 trials: must be 8"):
        opened(tmp_path, progress, capacity_trials=8)
    trial = make_trials(0)[0].set("reward", torch.zeros(4, 1))
    replay = TrialReplay(**SETTINGS)
    replay.load_progress(progress)
    with pytest.raises(UserError, match="belongs to another environment or policy: reward is missing or differs"):
        replay.plan(trial, tmp_path, 1, is_resumed=True)
    description = tmp_path / "rank0" / "replay.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "format": 0}))
    with pytest.raises(UserError, match="the replay has format 0: must be 1"):
        opened(tmp_path, progress)
    description.unlink()
    with pytest.raises(UserError, match="contains no replay"):
        opened(tmp_path, progress)


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("capacity_trials", 3, "at least algorithm.replay.batch_size=4"),
        ("capacity_bytes", 0, "at least 1, or null"),
        ("batch_size", 0, "at least 1"),
        ("trial_length", 0, "at least 1"),
        ("sampling", "newest", "one of uniform, prioritized"),
        ("alpha", 1.5, "between 0 and 1"),
        ("beta", -1, "between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, allowed):
    with pytest.raises(UserError, match=rf"algorithm\.replay\.{setting}={value!r}: must be {allowed}"):
        TrialReplay(**{**SETTINGS, setting: value})


def test_a_capacity_in_bytes_that_is_less_than_a_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"capacity_bytes=100: must be at least {4 * TRIAL_BYTES}, the size of"):
        opened(tmp_path, capacity_bytes=100)
