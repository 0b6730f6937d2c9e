"""The version of the code that made a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from memo_lightning.version import __version__

MLFLOW_GIT_COMMIT = "mlflow.source.git.commit"  # without importing MLflow, which takes seconds


_CODE = ("src", "conf", "pyproject.toml")  # what decides a run; its own results may lie in the checkout too


def code_tags(root: Path | None = None) -> dict[str, str]:
    """Return the MLflow tags that identify the running code.

    ``code`` is the git commit of the checkout, with ``+changes`` if code or configuration differs from it, else the
    package's version. If there is a commit, it is also stored under the tag that MLflow's pages show.

    Args:
        root: the checkout; by default that of this file.
    """
    root = root or Path(__file__).resolve().parents[3]
    version = {"code": f"memo-lightning {__version__}"}
    if not (root / ".git").exists():
        return version
    try:
        commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout owned by another user
        return version
    return {"code": f"{commit}+changes" if changes else commit, MLFLOW_GIT_COMMIT: commit}


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout.strip()
