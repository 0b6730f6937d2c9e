"""The ``memo benchmark`` command: all cases, each in a fresh process."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from memo_lightning.benchmarks.acting import measure_acting, measure_staggered, measure_streaming
from memo_lightning.benchmarks.case import Case
from memo_lightning.benchmarks.checks import check_steps
from memo_lightning.benchmarks.plan import plan
from memo_lightning.benchmarks.plot import plot_costs
from memo_lightning.benchmarks.ratios import ratios
from memo_lightning.benchmarks.tables import cost_table, ratio_table
from memo_lightning.benchmarks.update import measure_update, update_rates
from memo_lightning.errors import UserError
from memo_lightning.files import write_atomically
from memo_lightning.models import SequenceModel
from memo_lightning.processes import end_with_parent
from memo_lightning.training.run_dir import new_run_dir

_MODULE = "memo_lightning.benchmarks.benchmark"


def benchmark(config: DictConfig) -> dict[str, Any]:
    """Run the measurements that ``conf/benchmark.yaml`` and its overrides ask for.

    Memories take turns: at each context length, every memory is measured once, then every memory again. So changes in
    the machine's speed affect both sides of a ratio alike. Results are written after every turn, and turns that
    ``run_dir`` already holds are kept.

    Args:
        config: a configuration composed by :func:`memo_lightning.config.compose_config`; its ``run_dir`` is filled in.

    Returns:
        The contents of ``benchmark.json``.

    Raises:
        UserError: if a setting is wrong, or ``run_dir`` holds a benchmark with other settings.
    """
    cases = plan(config)
    run_dir = Path(config.run_dir) if config.run_dir else new_run_dir("benchmark")
    config.run_dir = str(run_dir)
    results = _open_results(run_dir, cases[0].settings)
    _write(run_dir, results)  # fail now, not after hours, if results cannot be saved
    if n_kept := sum(len(case["turns"]) for case in results["cases"].values()):
        print(f"keeping {n_kept} turns that are already in {run_dir}", file=sys.stderr)
    for _, compared in groupby(cases, key=lambda case: (case.context_length, case.kind)):
        for case, turn in _turns(list(compared), results["cases"]):
            title = f"{case.memory} at {case.context_length:,} steps, {case.kind}, turn {turn + 1} of {case.n_turns}"
            print(f"[{1 + cases.index(case)}/{len(cases)}] {title} ...", file=sys.stderr, flush=True)
            start = time.perf_counter()
            metrics = in_fresh_process(measure, case, turn)
            print(f"    {_describe(metrics)} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
            results["cases"][case.key] = summarise(case, [*_turns_of(results["cases"], case), metrics])
            results["ratios"] = ratios(results["cases"])
            _write(run_dir, results)
    tables = f"{cost_table(results['cases'])}\n\n{ratio_table(results['ratios'])}\n"
    (run_dir / "benchmark.md").write_text(tables)
    plot_costs(results["cases"], run_dir / "benchmark.png")
    return results


def _turns(compared: Sequence[Case], results: Mapping[str, Any]) -> Iterator[tuple[Case, int]]:
    """Yield the turns of ``compared`` cases that ``results``, which grow meanwhile, do not hold yet.

    Stop once the slowest case has spent ``max_seconds``, so that all cases have the same number of turns.
    """
    for turn in range(compared[0].n_turns):
        taken = [_turns_of(results, case)[:turn] for case in compared]
        slowest = max(sum(metrics.get("update_seconds", 0.0) for metrics in turns) for turns in taken)
        if slowest > compared[0].settings["max_seconds"]:
            return
        for case in compared:
            done = _turns_of(results, case)
            if len(done) <= turn and not any("failed" in metrics for metrics in done):
                yield case, turn


def _turns_of(results: Mapping[str, Any], case: Case) -> list[dict[str, Any]]:
    return results[case.key]["turns"] if case.key in results else []


def measure(case: Case, turn: int = 0) -> dict[str, Any]:
    """Build the memory, check that its steps agree with whole sequences, and measure it.

    Args:
        case: the case to measure.
        turn: number of earlier measurements of the case. Whatever does not vary is measured in the first turn only.
    """
    model = case.build_model()
    measures: dict[str, Callable[[Case, SequenceModel, int], dict[str, Any]]] = {
        "update": measure_update,
        "acting": measure_acting,
        "staggered": measure_staggered,
        "streaming": measure_streaming,
    }
    checked = {"step_minus_forward": check_steps(case, model)} if turn == 0 else {}
    return {**checked, **measures[case.kind](case, model, turn)}


def summarise(case: Case, turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a case: medians over its ``turns``, and the turns themselves."""
    metrics: dict[str, Any] = {"memory": case.memory, "context_length": case.context_length}
    for name in dict.fromkeys(name for turn in turns for name in turn):
        values = [turn[name] for turn in turns if turn.get(name) is not None]
        numbers = values and isinstance(values[0], (int, float))
        metrics[name] = statistics.median(values) if numbers else next(iter(values), None)
    if case.kind == "update" and "failed" not in metrics:
        metrics |= update_rates(case, metrics)
    return {**metrics, "turns": list(turns)}


def in_fresh_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call ``function`` in a new process and return its result, or ``{"failed": reason}``."""
    context = multiprocessing.get_context("forkserver")  # imports once; no child has run torch before
    context.set_forkserver_preload([_MODULE])
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as executor:
        try:
            return executor.submit(function, *arguments).result()
        except BrokenProcessPool:
            return {"failed": "its process was killed, probably because memory ran out"}
        except Exception as error:  # one failing memory must not cost the metrics of all others
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {os.cpu_count()} cores"


def _describe(metrics: dict[str, Any]) -> str:
    """Summarise a case's metrics in one line."""
    if "failed" in metrics:
        return f"failed: {metrics['failed']}"
    if "update_seconds" in metrics:
        return f"{metrics['update_seconds']:.2f} s per update"
    if "step_seconds" in metrics:
        times = f"step {1e3 * metrics['step_seconds']:.2f} ms (worst {1e3 * metrics['worst_step_seconds']:.2f})"
        return f"{times}, state {metrics['state_bytes'] / 1e6:.2f} MB"
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _open_results(run_dir: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results in ``run_dir``, or new ones."""
    path = run_dir / "benchmark.json"
    system = {"torch": torch.__version__, "device": _device_name(settings["device"])}
    if not path.exists():
        return {"settings": settings, "system": system, "cases": {}, "ratios": []}
    try:
        results = json.loads(path.read_text())
        same = results["settings"] == settings and results["system"] == system
        same = same and all("turns" in case for case in results["cases"].values())
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"run_dir={run_dir}: contains a benchmark with other settings; must be another folder")
    return results


def _write(run_dir: Path, results: dict[str, Any]) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / "benchmark.json", json.dumps(results, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
