"""Writing of packages, folders that hold a policy to share; :mod:`memo_lightning.policies.package` reads them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from memo_lightning.errors import UserError
from memo_lightning.policies.checkpoint import restore_policy
from memo_lightning.policies.loading import find_checkpoint
from memo_lightning.policies.package import (
    CARD,
    COPIED,
    CURVE,
    EVALUATION,
    MANIFEST,
    POLICY,
    TRAINING,
    VIDEO,
    WEIGHTS,
    manifest_of,
    read_json,
    write_json,
)
from memo_lightning.sharing.model_card import Described, changed_settings, model_card
from memo_lightning.version import __version__


@dataclass(frozen=True)
class Package:
    """A package that was written.

    Attributes:
        folder: its folder.
        files: names of its files, with their sizes in bytes.
        remarks: what its owner should know before sharing it.
    """

    folder: Path
    files: dict[str, int]
    remarks: list[str]


def write_package(source: str, out: Path, tracking_uri: str | None = None, evaluation: str | None = None) -> Package:
    """Write a policy as a package.

    Args:
        source: where the policy comes from, as in :func:`memo_lightning.load`.
        out: the folder, which must be new or empty. It is written completely or not at all.
        tracking_uri: MLflow store for ``models:/``.
        evaluation: the folder of an evaluation; by default ``evaluation/`` of the run.

    Raises:
        UserError: if the policy or the evaluation cannot be used, or the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out}: exists and is not empty; must be a new folder, e.g. out={out}-2")
    checkpoint = find_checkpoint(source, tracking_uri)
    spec, policy = restore_policy(checkpoint, {})
    config = without_places(checkpoint["config"])
    evaluated, remarks = _find_evaluation(source, evaluation, checkpoint["frames"])
    remarks += [f"training.json contains a path on this machine: {name}={value}" for name, value in _places(config, "")]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            folder = Path(scratch) / "package"
            folder.mkdir()
            write_json(folder / POLICY, spec.as_plain())
            training = {"config": config, "frames": checkpoint["frames"], "mlflow_run_id": None}
            write_json(folder / TRAINING, {**training, "memo_version": __version__})
            results = _write_evaluation(folder, evaluated, source)
            if results and (changed := changed_settings(results, config)):
                remarks.append(f"its evaluation differs from training in {', '.join(changed)}; the model card says so")
            if not (folder / CURVE).exists():
                _copy(_run_of(source), folder, CURVE)
            # Copies of the JSON files go with the weights, so that manual changes can be named.
            copies = {name: json.dumps(_raw(folder / name)) for name in COPIED if (folder / name).exists()}
            weights = {name: value.detach().cpu().contiguous().clone() for name, value in policy.state_dict().items()}
            save_file(weights, folder / WEIGHTS, {"format": "pt", **copies})
            n_weights = sum(weight.numel() for weight in policy.parameters())
            files = {path.name for path in folder.iterdir()}
            described = Described(spec, config, checkpoint["frames"], results, n_weights, files)
            (folder / CARD).write_text(model_card(described), encoding="utf-8")
            write_json(folder / MANIFEST, manifest_of(folder))
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise UserError(f"out={out}: must be writable ({error.strerror})") from None
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return Package(out, sizes, remarks)


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's configuration without what concerns only the person who trained.

    That is the location of the run, what was resumed, and the logger, as addresses of stores may contain passwords.
    """
    kept = dict(config)
    for name in ("logger", "resume", "checkpoint"):
        if name in kept:
            kept[name] = None
    run_dir = str(kept.get("run_dir") or "")
    return {name: _with_folder_name(value, run_dir) for name, value in kept.items()} if run_dir else kept


def _with_folder_name(value: Any, run_dir: str) -> Any:
    """Return a setting in which the path of the run is replaced by the name of its folder."""
    if isinstance(value, Mapping):
        return {key: _with_folder_name(part, run_dir) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_folder_name(part, run_dir) for part in value]
    return Path(run_dir).name if value == run_dir else value


def _places(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the settings that are paths on this machine."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _places(part, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _places(part, f"{name}[{index}]")
    elif isinstance(value, str) and value.startswith(("/", "~")):
        yield name, value


def _run_of(source: str) -> Path | None:
    """Return the folder of the run or package that a policy belongs to, if it is on this machine."""
    path = Path(source)
    if path.is_dir():
        return path
    is_of_run = path.is_file() and path.parent.name == "checkpoints"
    return path.parent.parent if is_of_run else None


def _find_evaluation(source: str, given: str | None, frames: int) -> tuple[Path | None, list[str]]:
    """Return the folder of the evaluation of a policy, or None and the reason why there is none."""
    run = _run_of(source)
    if given is not None:
        folder = Path(given)
        if not (folder / EVALUATION).is_file():
            raise UserError(f"evaluation={given}: must be an output folder of memo evaluate; it has no {EVALUATION}")
    elif run is None:
        return None, ["no evaluation: the policy has no run folder here; evaluation=FOLDER adds one"]
    else:
        found = [folder for folder in (run / "evaluation", run) if (folder / EVALUATION).is_file()]
        if not found:
            return None, [f"no evaluation: run memo evaluate checkpoint={source}, then package again"]
        folder = found[0]
    evaluated = read_json(folder / EVALUATION).get("frames_trained")
    if evaluated != frames:
        why = f"{folder}: evaluates a policy trained for {evaluated} frames; this one was trained for {frames}"
        if given is not None:
            raise UserError(f"evaluation={why}")
        return None, [f"no evaluation: {why}; run memo evaluate checkpoint={source}, then package again"]
    return folder, []


def _write_evaluation(folder: Path, evaluated: Path | None, source: str) -> dict[str, Any] | None:
    if evaluated is None:
        return None
    results = {**read_json(evaluated / EVALUATION), "checkpoint": Path(source).name}
    for name in ("mlflow_run_id", "mlflow_experiment"):
        results[name] = None
    written = results.get("files", [CURVE, VIDEO])  # files of earlier versions do not say
    kept = [name for name in (CURVE, VIDEO) if name in written and _copy(evaluated, folder, name)]
    results["files"] = [EVALUATION, *kept]
    write_json(folder / EVALUATION, results)
    return results


def _copy(source: Path | None, folder: Path, name: str) -> bool:
    if source is None or not (source / name).is_file():
        return False
    shutil.copyfile(source / name, folder / name)
    return True


def _raw(path: Path) -> Any:
    """Return the contents of a JSON file, with infinities in their written form."""
    return json.loads(path.read_text(encoding="utf-8"))
