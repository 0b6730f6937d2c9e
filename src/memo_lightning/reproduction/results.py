"""The results folder: one small JSON file per finished run, and one per verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.reproduction.runs import Run, evaluation_key

FORMAT = 1  # of the files; it changes when a version of this package reads them differently


class Results:
    """Finished runs and verdicts in a folder: ``runs/NAME.json`` and ``claims/NAME.json``.

    Args:
        folder: the folder; created as soon as something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def run(self, run: Run) -> dict[str, Any] | None:
        """Return the stored results of a run; None if there are none, or if defaults have changed since it was made.

        Raises:
            UserError: if the file is of another version, or broken.
        """
        kept = self._read(self.run_path(run.name))
        return kept if kept and not run.changed_settings(kept["settings"]) else None

    def outdated(self, run: Run) -> list[str]:
        """Return the settings whose defaults have changed since a run was made, as ``KEY: OLD -> NEW``."""
        kept = self._read(self.run_path(run.name))
        return run.changed_settings(kept["settings"]) if kept else []

    def is_complete(self, run: Run) -> bool:
        """Return whether a run is stored with all of its evaluations."""
        kept = self.run(run)
        return kept is not None and all(evaluation_key(o) in kept["evaluations"] for o in run.evaluations)

    def keep_run(self, run: Run, kept: Mapping[str, Any]) -> None:
        """Store the results of a run.

        Raises:
            UserError: if the folder cannot be written.
        """
        self._write(self.run_path(run.name), kept, indent=None)

    def verdict(self, claim: str, scale: str) -> dict[str, Any] | None:
        """Return the last verdict on a claim, or None.

        Raises:
            UserError: if the file is of another version, or broken.
        """
        return self._read(self.verdict_path(claim, scale))

    def keep_verdict(self, claim: str, scale: str, verdict: Mapping[str, Any]) -> Path:
        """Store a verdict, and return the path of its file.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self.verdict_path(claim, scale)
        self._write(path, verdict)
        return path

    def run_path(self, name: str) -> Path:
        """Return the path of a run's file."""
        return self.folder / "runs" / f"{name}.json"

    def verdict_path(self, claim: str, scale: str) -> Path:
        """Return the path of a verdict's file, which at the quick scale has the claim's name alone."""
        return self.folder / "claims" / f"{claim if scale == 'quick' else f'{claim}-{scale}'}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error}); delete it, and it will be made again") from None
        found = kept.get("format") if isinstance(kept, dict) else None
        if found != FORMAT:
            raise UserError(
                f"{path}: format={found!r}: must be {FORMAT}, the format of this version of memo-lightning; choose "
                "another folder with results=DIR"
            )
        return kept

    def _write(self, path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"format": FORMAT, **content}, indent=indent) + "\n")
        except OSError as error:
            raise UserError(f"results={self.folder}: must be writable ({error.strerror})") from None
