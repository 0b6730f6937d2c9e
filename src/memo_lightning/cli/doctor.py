"""``memo doctor``: report what this machine has, and what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.findings import Finding, print_findings
from memo_lightning.sweeps.storage import open_storage
from memo_lightning.tracking import describe_store, store_file
from memo_lightning.tracking.store import open_client, store_errors
from memo_lightning.training.devices import n_cores
from memo_lightning.wording import one_line

HELP = "Reports what memo can use on this machine, and what is wrong. The exit status is 2 if anything is wrong."
_PACKAGES = ("memo-lightning", "torch", "lightning", "torchrl", "tensordict", "mlflow", "optuna", "hydra-core")
# Extras that only development needs, and habitat, which has a line of its own.
_NOT_OF_USERS = ("dev", "docs", "peers", "habitat")
_TEST_PROGRAMS = {
    "chromium": "needed only by tests of web pages",
    "postgres": "needed only by tests of studies on a local PostgreSQL server",
}
_MIN_FREE_GIB = 1.0


def main(arguments: Sequence[str]) -> None:
    """Print the diagnosis."""
    if print_help("doctor", HELP, arguments):
        return
    config = compose_config("doctor", arguments)
    print(
        f"checking this machine, {describe_store(config.tracking_uri)} and the storage of studies; nothing is changed\n"
    )
    wrong = print_findings(chain.from_iterable(check() for check in _checks(config.tracking_uri, config.storage)))
    if wrong:
        raise UserError(f"doctor: something is wrong with {', '.join(wrong)}")
    print("\nnext: memo train")


def _checks(tracking_uri: str, storage: str | None) -> list[Callable[[], Iterator[Finding]]]:
    return [
        _python,
        _versions,
        _cpu,
        _gpus,
        _arithmetic,
        _habitat,
        _extras,
        _programs,
        _folder,
        lambda: _mlflow(tracking_uri),
        lambda: _studies(storage),
    ]


def _python() -> Iterator[Finding]:
    version, allowed = platform.python_version(), importlib.metadata.metadata("memo-lightning")["Requires-Python"]
    fits = SpecifierSet(allowed).contains(version, prereleases=True)
    yield Finding("python", None if fits else f"{version}: must be {allowed}", version)


def _versions() -> Iterator[Finding]:
    found = {name: _version(name) for name in _PACKAGES}
    yield Finding("packages", note=", ".join(f"{name} {version}" for name, version in found.items() if version))
    # Compare the declared requirements of the package with what is installed.
    for line in importlib.metadata.requires("memo-lightning") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            yield Finding(requirement.name, f"is missing; pip install '{requirement}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(requirement.name, f"{version}: must be {requirement.specifier}")


def _cpu() -> Iterator[Finding]:
    threads = os.environ.get("OMP_NUM_THREADS")
    note = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding("cpu", note=f"{n_cores()} cores, {torch.get_num_threads()} threads{note}")


def _gpus() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        reason = "this build of torch has no CUDA support" if torch.version.cuda is None else "torch finds no GPU"
        yield _missing("gpu", f"{reason}; training runs on the CPU")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding(f"gpu {index}", note=f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {precision}")


def _arithmetic() -> Iterator[Finding]:
    """Compare attention on every device with the same computation in double precision on the CPU."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 16, 8, generator=generator, dtype=torch.float64)
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        inputs = (x.to(device, torch.float32) for x in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*inputs).cpu().double()
        error = float((y - expected).abs().max())
        fine = error < 1e-2  # a GPU may round to TF32
        text = f"off by {error:.1e} from double precision"
        yield Finding(f"attention, {device}", None if fine else text, text)


def _habitat() -> Iterator[Finding]:
    version = _version("habitat-lab")
    if version is None:
        yield _missing("habitat-lab", "not installed; pip install 'memo-lightning[habitat]'")
        return
    yield Finding("habitat-lab", note=version)
    if importlib.util.find_spec("habitat_sim") is None:
        yield _missing("habitat-sim", "not installed; memo-lightning's own simulator is used")
        return
    # In a separate process: without a display driver, its libraries may end the process that loads them.
    script = "import habitat_sim; print(habitat_sim.__version__, habitat_sim.cuda_enabled)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        yield Finding("habitat-sim", f"cannot be imported ({reason}); it needs EGL, e.g. libegl1")
        return
    sim_version, cuda = result.stdout.split()
    rendering = "renders on the GPU" if cuda == "True" and torch.cuda.is_available() else "renders in software"
    yield Finding("habitat-sim", note=f"{sim_version}, {rendering}")


def _extras() -> Iterator[Finding]:
    requirements = [Requirement(line) for line in importlib.metadata.requires("memo-lightning") or []]
    for extra in importlib.metadata.metadata("memo-lightning").get_all("Provides-Extra") or []:
        if extra in _NOT_OF_USERS:
            continue
        versions = {
            requirement.name: _version(requirement.name)
            for requirement in requirements
            if requirement.marker and requirement.marker.evaluate({"extra": extra})
        }
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            yield _missing(f"[{extra}]", f"no {', '.join(missing)}; pip install 'memo-lightning[{extra}]'")
        else:
            yield Finding(f"[{extra}]", note=", ".join(f"{name} {version}" for name, version in versions.items()))


def _programs() -> Iterator[Finding]:
    import imageio_ffmpeg

    try:
        yield Finding("ffmpeg", note=f"{imageio_ffmpeg.get_ffmpeg_version()}, for videos of trials")
    except (OSError, RuntimeError) as error:
        yield Finding("ffmpeg", f"cannot be run, so render=true will fail ({one_line(error)})")
    for program, what in _TEST_PROGRAMS.items():
        paths = [shutil.which(program), *sorted(map(str, Path("/usr/lib").glob(f"postgresql/*/bin/{program}")))]
        found = next((path for path in paths if path), None)
        yield Finding(program, note=found) if found else _missing(program, f"not installed; {what}")


def _folder() -> Iterator[Finding]:
    folder = Path.cwd()
    writable, free = os.access(folder, os.W_OK), shutil.disk_usage(folder).free / 2**30
    if not writable:
        yield Finding("folder", f"{folder}: is not writable; runs and mlflow.db would go there")
    text = f"{free:.1f} GiB free in {folder}"
    yield Finding("disk", None if free > _MIN_FREE_GIB else text, text)


def _mlflow(uri: str) -> Iterator[Finding]:
    file = store_file(uri)
    if file and not file.exists():
        yield _missing("mlflow", f"{uri}: does not exist yet; memo train creates it")
        return
    try:
        with store_errors(uri, "tracking_uri"):
            if file:  # read first, as MLflow would change a database of another version
                with sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True) as connection:
                    connection.execute("SELECT COUNT(*) FROM experiments")
            n = len(open_client(uri).search_experiments())
        yield Finding("mlflow", note=f"{uri}: reachable, {n} experiments")
    except UserError as error:
        yield Finding("mlflow", str(error))


def _studies(storage: str | None) -> Iterator[Finding]:
    if storage is None:
        yield Finding("studies", note="stored in files; to check a server, set storage=postgresql://USER@HOST/DATABASE")
        return
    if "://" not in storage and not Path(storage).exists():  # opening it would create it
        yield Finding("studies", note=f"{storage}: does not exist yet")
        return
    try:
        open_storage(storage)
        yield Finding("studies", note=f"{storage}: reachable")
    except UserError as error:
        yield Finding("studies", str(error))


def _missing(name: str, text: str) -> Finding:
    """Return the finding that something optional is missing."""
    return Finding(name, text, optional=True)


def _version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
