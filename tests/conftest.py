"""Fixtures that all tests share."""

import os
import socket
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_lightning.envs.build import build_env
from memo_lightning.envs.interface import interface_of
from memo_lightning.models import MemoTransformer
from memo_lightning.policies import MemoryPolicy, VectorEncoder
from memo_lightning.policies.heads import ActorCriticHeads
from memo_lightning.tracking import store
from tiny import MEMO_SIZES

TESTS = Path(__file__).parent

# Tests run beside one another, and on tensors so small that threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# The stores of tests are those of the tests.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that at the end all workers have something left to do.

    Those are the files with most slow tests and then, as far as can be told, those with most tests.

    Slow tests run whole commands, whose parts others cover: they are not slowed down further by coverage. Those that
    need a CUDA device are skipped where there is none.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        item.add_marker("no_cover")
    n_slow, n_tests = (Counter(item.path for item in some) for some in (slow, items))
    items.sort(key=lambda item: (-n_slow[item.path], -n_tests[item.path]))


@dataclass(frozen=True)
class Parity:
    """Weights, inputs and outputs of the official implementation (float64)."""

    config: dict
    params: dict
    grads: dict
    x: torch.Tensor
    y: torch.Tensor
    grad_x: torch.Tensor
    loss_weight: torch.Tensor
    y_step: torch.Tensor | None


@pytest.fixture
def parity():
    """Load the official numbers of one model, e.g. ``parity("memo")``."""

    def load(name):
        with np.load(TESTS / "parity_data" / f"{name}.npz", allow_pickle=False) as file:
            data = {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}
        groups = {group: {} for group in ("config", "param", "grad")}
        for key, value in data.items():
            group, _, rest = key.partition("/")
            if rest:
                groups[group][rest] = value.item() if group == "config" else value
        return Parity(
            config=groups["config"],
            params=groups["param"],
            grads=groups["grad"],
            y_step=data.get("y_step"),
            **{key: data[key] for key in ("x", "y", "grad_x", "loss_weight")},
        )

    return load


@pytest.fixture
def make_env():
    """Build small Dark-Key-To-Door environments: ``make_env(n_envs, seed)``."""

    def make(n_envs, seed, **changes):
        settings = {"room_size": 3, "episode_length": 4, "trial_length": 12, **changes}
        return build_env({"_target_": "memo_lightning.envs.DarkKeyToDoor", **settings}, n_envs, seed)

    return make


@pytest.fixture
def make_policy():
    """Build a small Memo policy for an environment."""

    def make(env, **changes):
        torch.manual_seed(0)
        model = MemoTransformer(**{**MEMO_SIZES, **changes})
        interface = interface_of(env)
        encoder = VectorEncoder(interface.observed(), model.d_model, ["observation", "previous_step"])
        return MemoryPolicy(encoder, model, ActorCriticHeads(model.d_model, interface.action))

    return make


@pytest.fixture
def free_port():
    """Find a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def stores_begin_as_copies(tmp_path_factory):
    """MLflow needs a second to make the tables of a store: it does so once, and further stores are copies of the first.

    Processes that tests start make theirs themselves.
    """
    first, make = tmp_path_factory.mktemp("store") / "mlflow.db", store.prepare_store

    def copy_or_make(uri):
        file = store.store_file(uri)
        if file is not None and not file.exists():
            if not first.exists():
                make(f"sqlite:///{first}")
            with suppress(OSError, sqlite3.Error):  # of a place that cannot be written, as ``make`` finds
                file.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(first)) as source, closing(sqlite3.connect(file)) as copy:
                    source.backup(copy)
        make(uri)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "prepare_store", copy_or_make)
        yield


@pytest.fixture
def in_tmp_dir(tmp_path, monkeypatch):
    """Run in an empty directory, where default stores and runs end up."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
