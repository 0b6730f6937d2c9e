"""The results folder: a small JSON file for every finished run, and one for every verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.reproduction.runs import Run, evaluation_key

FORMAT = 1  # of the files; another number where a version of this package reads them differently


class Results:
    """Finished runs and verdicts in a folder: ``runs/NAME.json`` and ``claims/NAME.json``.

    Args:
        folder: made as soon as something is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def run(self, run: Run) -> dict[str, Any] | None:
        """Return what was kept of a run; None where nothing was, or it was made with defaults that have changed.

        Raises:
            UserError: if the file is of another version, or broken.
        """
        kept = self._read(self.run_path(run.name))
        return kept if kept and not run.changed_settings(kept["settings"]) else None

    def outdated(self, run: Run) -> list[str]:
        """Return the settings whose defaults have changed since a run was made, as ``KEY: OLD -> NEW``."""
        kept = self._read(self.run_path(run.name))
        return run.changed_settings(kept["settings"]) if kept else []

    def lacks(self, run: Run) -> list[tuple[str, ...]] | None:
        """Return the evaluations that are still to be made of a run; None where it has to be trained first."""
        kept = self.run(run)
        if kept is None:
            return None
        return [overrides for overrides in run.evaluations if evaluation_key(overrides) not in kept["evaluations"]]

    def is_complete(self, run: Run) -> bool:
        """Say whether nothing of a run is missing."""
        return self.lacks(run) == []

    def keep_run(self, run: Run, kept: Mapping[str, Any]) -> None:
        """Write what is kept of a run.

        Raises:
            UserError: if the folder cannot be written.
        """
        self._write(self.run_path(run.name), kept, indent=None)

    def verdict(self, claim: str, scale: str) -> dict[str, Any] | None:
        """Return the last verdict on a claim; None where there is none.

        Raises:
            UserError: if the file is of another version, or broken.
        """
        return self._read(self.verdict_path(claim, scale))

    def keep_verdict(self, claim: str, scale: str, verdict: Mapping[str, Any]) -> Path:
        """Write a verdict, and return where.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self.verdict_path(claim, scale)
        self._write(path, verdict)
        return path

    def run_path(self, name: str) -> Path:
        """Return the file of a run."""
        return self.folder / "runs" / f"{name}.json"

    def verdict_path(self, claim: str, scale: str) -> Path:
        """Return the file of a verdict; those of the quick scale have the claim's name alone."""
        return self.folder / "claims" / f"{claim if scale == 'quick' else f'{claim}-{scale}'}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            kept = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error}); remove it to make it again") from None
        found = kept.get("format") if isinstance(kept, dict) else None
        if found != FORMAT:
            raise UserError(
                f"{path}: format={found!r}: must be {FORMAT}, as this version of memo-lightning writes it; name "
                "another folder with results=DIR"
            )
        return kept

    def _write(self, path: Path, content: Mapping[str, Any], indent: int | None = 1) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"format": FORMAT, **content}, indent=indent) + "\n")
        except OSError as error:
            raise UserError(f"results={self.folder}: must be writable ({error.strerror})") from None
