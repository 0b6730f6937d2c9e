"""``memo doctor``: what this machine has, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.sweeps.devices import n_cores
from memo_lightning.sweeps.storage import open_storage, without_password
from memo_lightning.tracking import store_file

HELP = "Looks at this machine and says what memo can use of it and what is wrong. Exit status 2 if something is."
_PACKAGES = ("memo-lightning", "torch", "lightning", "torchrl", "tensordict", "mlflow", "optuna", "hydra-core")
_MIN_FREE_GIB = 1.0


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        what: that was looked at.
        state: ``ok``; ``none`` where something optional is missing; ``bad`` where something is wrong.
        text: what was found, and what to do about it.
    """

    what: str
    state: Literal["ok", "none", "bad"]
    text: str


def main(arguments: Sequence[str]) -> None:
    """Print the diagnosis."""
    if print_help("doctor", HELP, arguments):
        return
    config = compose_config("doctor", arguments)
    findings = [finding for check in _checks(config.tracking_uri, config.storage) for finding in check()]
    for finding in findings:
        print(f"{finding.state:<5} {finding.what:<16} {finding.text}")
    bad = [finding.what for finding in findings if finding.state == "bad"]
    if bad:
        raise UserError(f"doctor: something is wrong with {', '.join(bad)}")
    print("\nnext: memo train")


def _checks(tracking_uri: str, storage: str | None) -> list[Callable[[], Iterator[Finding]]]:
    return [
        _python,
        _versions,
        _cpu,
        _gpus,
        _arithmetic,
        _habitat,
        _folder,
        lambda: _mlflow(tracking_uri),
        lambda: _studies(storage),
    ]


def _python() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding(
        "python", "ok" if fits else "bad", f"{platform.python_version()}{'' if fits else ': must be 3.11 or 3.12'}"
    )


def _versions() -> Iterator[Finding]:
    found = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    yield Finding("packages", "ok", ", ".join(found))
    # What the package was declared to need, against what is there.
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("memo-lightning") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "bad", f"is missing; pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, "bad", f"{version}: must be {requirement.specifier}")


def _cpu() -> Iterator[Finding]:
    threads = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding("cpu", "ok", f"{n_cores()} cores, {torch.get_num_threads()} threads{note}")


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        reason = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees none"
        yield Finding("gpu", "none", f"{reason}; training runs on the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding(
            f"gpu {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {precision}"
        )


def _arithmetic() -> Iterator[Finding]:
    """Check, on every device, attention against the same in double precision on the CPU."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 16, 8, generator=generator, dtype=torch.float64)
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        inputs = (x.to(device, torch.float32) for x in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*inputs).cpu().double()
        error = float((y - expected).abs().max())
        fine = error < 1e-2  # a GPU may round to TF32
        yield Finding(f"attention, {device}", "ok" if fine else "bad", f"off by {error:.1e} from double precision")


def _habitat() -> Iterator[Finding]:
    if importlib.util.find_spec("habitat") is None:
        yield Finding("habitat-lab", "none", "not installed; pip install 'memo-lightning[habitat]'")
        return
    yield Finding("habitat-lab", "ok", importlib.metadata.version("habitat-lab"))
    if importlib.util.find_spec("habitat_sim") is None:
        yield Finding("habitat-sim", "none", "not installed; the simulator that comes with memo-lightning is used")
    else:
        yield Finding("habitat-sim", "ok", "installed")


def _folder() -> Iterator[Finding]:
    folder = Path.cwd()
    writable, free = os.access(folder, os.W_OK), shutil.disk_usage(folder).free / 2**30
    if not writable:
        yield Finding("folder", "bad", f"{folder}: cannot be written; runs and mlflow.db would go there")
    state: Literal["ok", "bad"] = "ok" if free > _MIN_FREE_GIB else "bad"
    yield Finding("disk", state, f"{free:.1f} GiB free in {folder}")


def _mlflow(uri: str) -> Iterator[Finding]:
    from mlflow import MlflowClient

    file = store_file(uri)
    if file and not file.exists():
        yield Finding("mlflow", "none", f"{uri}: not there yet; memo train makes it")
        return
    try:
        if file:  # looked at first, as MLflow would change a database of another version
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
                connection.execute("SELECT COUNT(*) FROM experiments")
        n = len(MlflowClient(uri).search_experiments())
        yield Finding("mlflow", "ok", f"{uri}: answers, {n} experiments")
    except Exception as error:  # whatever the store's own library raises
        yield Finding("mlflow", "bad", f"{uri}: does not answer ({str(error).splitlines()[0]})")


def _studies(storage: str | None) -> Iterator[Finding]:
    if storage is None:
        yield Finding("studies", "ok", "kept in files; storage=postgresql://USER@HOST/DATABASE looks at a server")
        return
    try:
        open_storage(storage)
        yield Finding("studies", "ok", f"{without_password(storage)}: answers")
    except UserError as error:
        yield Finding("studies", "bad", str(error))
