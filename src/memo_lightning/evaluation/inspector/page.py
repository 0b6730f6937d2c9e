"""The page of a recorded trial: one HTML file that needs no server, no network and no other files."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from pathlib import Path

from memo_lightning.evaluation.inspector.recording import TrialRecording


def write_page(path: Path, title: str, subtitle: str, recording: TrialRecording, memory: str) -> None:
    """Write the page of a trial.

    Args:
        path: the file to write.
        title: heading of the page: memory, environment, tasks.
        subtitle: how the trial was produced.
        recording: the trial.
        memory: class name of the sequence model, which a page without attention mentions.
    """
    path.write_text(fill_page(title, {"subtitle": subtitle, "memory": memory, **recording.data()}), encoding="utf-8")


def fill_page(title: str, data: dict[str, object]) -> str:
    """Return the page with its title and ``data``, which ``page.js`` reads."""
    # In a script element only "</" and "<!--" could end the data.
    content = json.dumps({"title": title, **data}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    slots = {"title": escape(title), "style": _part("page.css"), "script": _part("page.js"), "data": content}
    # In one pass, so that the inserted text is not searched for slots.
    return re.sub(r"{{(\w+)}}", lambda slot: slots[slot[1]], _part("page.html"))


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
