"""Testing claims: missing runs are made, several at once, and a claim is judged as soon as it has its runs."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from memo_lightning.errors import TrainingStopped, UserError, require
from memo_lightning.reproduction import worker
from memo_lightning.reproduction.claim import Claim
from memo_lightning.reproduction.judge import judge
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import Cell, Run, chain, merged, plan
from memo_lightning.training.devices import worker_environments
from memo_lightning.wording import listed


def reproduce(
    claims: Sequence[Claim], scale: str, results: Results, run_dir: Path, workers: int = 1, train: Sequence[str] = ()
) -> Iterator[tuple[Claim, list[Cell], dict[str, Any]]]:
    """Make the runs that the claims need and that are not stored yet, short ones first, and judge each claim in time.

    Args:
        claims: the claims to test.
        scale: scale of the runs.
        results: where finished runs and verdicts are stored.
        run_dir: where runs are made.
        workers: number of runs at once.
        train: further overrides of ``memo train`` for all runs.

    Yields:
        Each claim, its runs and its verdict, as it is stored, once all of these runs are there.

    Raises:
        UserError: before any run starts, if something is wrong with the claims or the folders.
        TrainingStopped: at the end, if runs have failed; the others have been made, and the same command tries the
            failed ones again.
    """
    require(workers >= 1, "workers", workers, "at least 1")
    planned = {claim.name: plan(claim, scale, train) for claim in claims}
    runs = merged([cell for cells in planned.values() for cell in cells])
    for run in runs:
        if changes := results.outdated(run):
            print(f"{run.name}: will be made again, as defaults have changed: {listed(changes, '; ')}", file=sys.stderr)
    n_kept, failed, waiting = sum(map(results.is_complete, runs)), [], list(claims)
    with _only_one_in(run_dir):
        for failure in _make(_jobs(runs, results), results, run_dir, workers, n_kept):
            if failure:
                failed.append(failure)
            for claim in [claim for claim in waiting if _has_its_runs(planned[claim.name], results)]:
                waiting.remove(claim)
                verdict = judge(claim, scale, planned[claim.name], results)
                results.keep_verdict(claim.name, scale, verdict)
                yield claim, planned[claim.name], verdict
    if failed:
        raise TrainingStopped(f"{len(failed)} run(s) failed; the same command retries them: {listed(failed, '; ')}")


def _has_its_runs(cells: Sequence[Cell], results: Results) -> bool:
    return all(results.is_complete(run) for cell in cells for run in cell.runs)


def _jobs(runs: Sequence[Run], results: Results) -> list[list[Run]]:
    """Return the runs to make, the shortest jobs first; runs that start from one another form one job, in order."""
    jobs: dict[str, dict[str, Run]] = {}
    by_name = {run.name: run for run in runs}
    for run in runs:
        if not results.is_complete(run):
            line = [by_name[part.name] for part in chain(run)]
            jobs.setdefault(line[0].name, {}).update({part.name: part for part in line})
    return sorted((list(job.values()) for job in jobs.values()), key=lambda job: sum(run.minutes for run in job))


def _make(jobs: list[list[Run]], results: Results, run_dir: Path, workers: int, n_kept: int) -> Iterator[str | None]:
    """Make runs in processes forked from one that has imported everything.

    Yields:
        None before the first job; then, as each job ends, what went wrong with it, or None.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    accelerators = {run.settings["trainer.accelerator"] for job in jobs for run in job}
    environments = worker_environments(workers, next(iter(accelerators - {"cpu"}), "cpu"), 1)
    n_runs, minutes = sum(map(len, jobs)), sum(run.minutes for job in jobs for run in job)
    if jobs:
        took = f"about {minutes / 60 / min(workers, len(jobs)):.1f} hours with workers={workers}"
        print(f"{n_kept} runs done, {n_runs} to do: {took}", file=sys.stderr, flush=True)
    waiting = list(jobs)
    under_way: dict[int, tuple[BaseProcess, list[Run], float, int]] = {}
    try:
        yield None
        while waiting or under_way:
            while waiting and len(under_way) < workers:
                job = waiting.pop(0)
                (run_dir / job[-1].name / worker.LOG).unlink(missing_ok=True)  # of an earlier attempt
                slot = min(set(range(workers)) - {slot for *_, slot in under_way.values()})
                begun = context.Process(target=worker.work, args=(job, results, run_dir, environments[slot]))
                begun.start()
                under_way[begun.sentinel] = (begun, job, time.monotonic(), slot)
                print(f"starts   {_names(job)}", file=sys.stderr, flush=True)
            wait(list(under_way))
            for ended in [sentinel for sentinel, (run, *_) in under_way.items() if run.exitcode is not None]:
                process, job, began, _ = under_way.pop(ended)
                spent = f"{(time.monotonic() - began) / 60:.1f} min"
                if process.exitcode == 0:
                    print(f"done     {_names(job)}  {spent}", file=sys.stderr, flush=True)
                    yield None
                else:
                    failure = _why(process, run_dir / job[-1].name / worker.LOG)
                    print(f"failed   {_names(job)}  {spent}: {failure}", file=sys.stderr, flush=True)
                    yield failure
    finally:
        for process, *_ in under_way.values():
            process.kill()
            process.join()


def _names(job: Sequence[Run]) -> str:
    return ", ".join(run.name for run in job)


def _why(process: BaseProcess, log: Path) -> str:
    """Return, in one line, why a run failed."""
    if process.exitcode is not None and process.exitcode < 0:
        return f"killed by signal {-process.exitcode}; see {log}"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"{lines[-1].removeprefix('memo: ') if lines else 'no output'}; see {log}"


@contextmanager
def _only_one_in(run_dir: Path) -> Iterator[None]:
    """Lock ``run_dir`` for the block, to keep other processes out.

    Raises:
        UserError: if it is locked already, or cannot be written.
    """
    busy = "another memo reproduce is using it; to make more runs at once, set workers=N"
    lock = FileLock(run_dir / "lock")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"run_dir={run_dir}: {busy}") from None
    except OSError as error:
        raise UserError(f"run_dir={run_dir}: must be writable ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()
