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

# Tests run in parallel and on tensors so small that threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# Tests use their own MLflow stores, whatever the user's environment says.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that all workers stay busy until the end.

    The longest files are those with the most slow tests and, among these, those with the most tests.

    Slow tests run whole commands whose parts other tests cover, so coverage is not measured in them. Tests that need a
    CUDA device are skipped where there is none.
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


@pytest.fixture(autouse=True)
def exact_float32_on_cuda(request, monkeypatch):
    """Keep a GPU from rounding float32 to TF32 in tests that compare it with the CPU."""
    if request.node.get_closest_marker("cuda"):
        for part in (torch.backends.cudnn, torch.backends.cuda.matmul):
            monkeypatch.setattr(part, "allow_tf32", False)


@pytest.fixture
def without_values(monkeypatch):
    """Return the meta device, on which reading a value fails. On a GPU, reading one would wait for it.

    Torch has no autocast there, so it is always off.
    """
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *args, **more: autocast("cpu" if kind == "meta" else kind, *args, **more)
    )
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cuda": kind != "meta" and is_enabled(kind))
    return torch.device("meta")


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
    """Return a free port on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def stores_begin_as_copies(tmp_path_factory):
    """Create the tables of an MLflow store once, which takes a second, and copy them for every further store.

    Processes that tests start create their own stores.
    """
    first, make = tmp_path_factory.mktemp("store") / "mlflow.db", store.prepare_store

    def copy_or_make(uri):
        file = store.store_file(uri)
        if file is not None and not file.exists():
            if not first.exists():
                make(f"sqlite:///{first}")
            with suppress(OSError, sqlite3.Error):  # not writable, which ``make`` will report
                file.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(first)) as source, closing(sqlite3.connect(file)) as copy:
                    source.backup(copy)
        make(uri)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "prepare_store", copy_or_make)
        yield


@pytest.fixture
def in_tmp_dir(tmp_path, monkeypatch):
    """Run in an empty directory, where default stores and runs are created."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
