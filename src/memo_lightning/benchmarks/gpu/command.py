"""The command, which takes all measurements within a time limit and writes one file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from memo_lightning.benchmarks.gpu.aims import aims
from memo_lightning.benchmarks.gpu.measure import Settings
from memo_lightning.benchmarks.gpu.plan import plan
from memo_lightning.benchmarks.gpu.system import system
from memo_lightning.benchmarks.gpu.worker import Worker
from memo_lightning.errors import FAILED, INTERRUPTED, USAGE_ERROR
from memo_lightning.files import write_atomically

_LEAST_SECONDS = 3.0  # no measurement begins with less time left


def main(arguments: Sequence[str]) -> int:
    """Take the measurements and return the exit status, which is a failure if any measurement failed."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: there is no GPU here; must be cpu, with --tiny", file=sys.stderr)
        return USAGE_ERROR
    try:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(options.out), "{}\n")  # fail now, not after minutes, if results cannot be saved
    except OSError as error:
        print(f"--out {options.out}: must be writable ({error.strerror})", file=sys.stderr)
        return USAGE_ERROR
    settings = Settings(options.device, tiny=options.tiny, peak_tflops=options.peak_tflops)
    report: dict[str, Any] = {"system": system(), "tiny": settings.tiny, "aims": [], "results": {}}
    try:
        _take_all(settings, report, options)
    except KeyboardInterrupt:
        return INTERRUPTED
    print(json.dumps(report, indent=2))
    failed = [name for name, result in report["results"].items() if "failed" in result or result.get("passed") is False]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m memo_lightning.benchmarks.gpu",
        description="Checks every memory on a GPU and measures what it costs there; writes one JSON file.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use toy sizes, to check only that the code runs")
    parser.add_argument("--minutes", type=float, default=7.0, help="start no measurement after this many minutes")
    parser.add_argument("--only", nargs="*", default=[""], metavar="PREFIX", help="e.g. attention update/width_256")
    parser.add_argument("--peak-tflops", type=float, help="peak bfloat16 TFLOP/s of the card, if not known")
    parser.add_argument("--out", default="gpu.json")
    return parser


def _take_all(settings: Settings, report: dict[str, Any], options: argparse.Namespace) -> None:
    """Take the measurements, writing the report after each."""
    end = time.monotonic() + 60 * options.minutes
    measures = [measure for measure in plan(settings) if measure.name.startswith(tuple(options.only))]
    worker = Worker(settings)
    try:
        for number, measure in enumerate(measures, start=1):
            left = end - time.monotonic()
            if left < _LEAST_SECONDS:
                result: dict[str, Any] = {"skipped": f"the limit of {options.minutes:g} minutes was reached"}
            else:
                result = worker.take(measure, min(measure.seconds, left))
            report["results"][measure.name] = result
            report["aims"] = aims(report["results"])
            write_atomically(Path(options.out), json.dumps(report, indent=2) + "\n")
            print(f"[{number}/{len(measures)}] {measure.name}: {_in_words(result)}", file=sys.stderr, flush=True)
    finally:
        worker.stop()


def _in_words(result: Mapping[str, Any]) -> str:
    for reason in ("failed", "skipped"):
        if reason in result:
            return f"{reason}: {result[reason]}"
    numbers = {key: value for key, value in result.items() if isinstance(value, float) and key != "seconds"}
    words = [f"{key} {value:.4g}" for key, value in numbers.items() if key != "tolerance"]
    if "passed" in result:
        worst = max(result["differences"].values())
        words = [f"{'passed' if result['passed'] else 'FAILED'}, largest difference {worst:.1e}"]
    return f"{', '.join(words) or 'done'} ({result['seconds']:.1f} s)"
