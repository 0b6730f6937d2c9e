"""What the benchmarks that run as modules share: ``python -m memo_lightning.benchmarks.NAME [--out FILE]``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments of the benchmark ``name``, with ``--out``."""
    made = argparse.ArgumentParser(prog=f"python -m memo_lightning.benchmarks.{name}", description=description)
    made.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the results")
    return made


def report(results: Any, out: Path | None) -> None:
    """Print the results as JSON, and write them to a file if there is one."""
    text = json.dumps(results, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
