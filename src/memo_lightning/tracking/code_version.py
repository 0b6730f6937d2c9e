"""Which code a run was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import memo_lightning


def code_version() -> str:
    """Return the git commit of the checkout, with ``+changes`` if files differ from it; else the package version."""
    root = Path(memo_lightning.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return f"memo-lightning {memo_lightning.__version__}"
    try:
        commit, changes = (_git(root, *command) for command in (["rev-parse", "HEAD"], ["status", "--porcelain"]))
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of somebody else's
        return f"memo-lightning {memo_lightning.__version__}"
    return f"{commit}+changes" if changes else commit


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True).stdout.strip()
