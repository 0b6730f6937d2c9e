"""The ``memo`` command: runs a verb, and reports a user's mistake in one line."""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from memo_lightning import __version__
from memo_lightning.config import nearest
from memo_lightning.errors import (
    FAILED,
    INTERRUPTED,
    OUTPUT_CLOSED,
    PREEMPTED,
    USAGE_ERROR,
    EnvironmentFailure,
    Preempted,
    TrainingStopped,
    UserError,
)

# Verb -> what it does. Each is the function ``main(arguments)`` of a module of this package, imported on use, so that
# one command does not load the parts of another.
VERBS = {
    "train": "train a policy",
    "evaluate": "run a checkpoint on held-out trials",
    "export": "export a policy to a file for other programs",
    "check-env": "check an environment before training on it",
    "check-memory": "check your own memory before training it",
    "export-houses": "write generated houses for habitat-sim",
    "sweep": "search for the best settings",
    "serve": "serve a policy over HTTP and WebSocket",
    "package": "package a policy in a folder for sharing",
    "push": "upload a package to the Hugging Face Hub",
    "register": "register a checkpoint in MLflow's model registry",
    "compare": "compare finished runs",
    "reproduce": "test a claim about memories",
    "benchmark": "measure the cost of every memory",
    "ui": "view runs in the browser",
    "doctor": "check this machine and report problems",
    "completion": "print a shell completion script",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``memo VERB [override ...]`` and return the exit status."""
    try:
        status = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:
            raise  # another pipe, e.g. to a worker
        for stream in closed:  # so that nothing fails when the rest is flushed
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return OUTPUT_CLOSED
    return status


def _is_closed(stream: TextIO) -> bool:
    """Return whether ``stream`` goes to a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: memo VERB [override ...]\n")
        print("\n".join(f"  {verb:<13} {text}" for verb, text in VERBS.items()))
        print("\n`memo VERB --help` lists the verb's settings, `memo --version` prints the version.")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"memo-lightning {__version__}")
        return 0
    verb, *rest = arguments
    return run(verb, rest)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb and return the exit status.

    Errors that need no stack trace become one line on stderr; an :class:`EnvironmentFailure` is printed with the stack
    trace of the environment.
    """
    try:
        if verb not in VERBS:
            raise UserError(f"no such verb {verb!r}: {nearest(verb, VERBS)}")
        module = importlib.import_module(f"memo_lightning.cli.{verb.replace('-', '_')}")
        module.main(arguments)
    except UserError as error:
        print(_of_rank(f"memo: {error}"), file=sys.stderr)
        return USAGE_ERROR
    except (TrainingStopped, EnvironmentFailure) as error:
        print(_of_rank(f"memo: {error}"), file=sys.stderr)
        return FAILED
    except Preempted as end:
        if str(end):  # not reported yet
            print(_of_rank(f"memo: {end}"), file=sys.stderr)
        return PREEMPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _of_rank(message: str) -> str:
    """Prefix a message with the rank of this process, unless it is the first."""
    rank = next((os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ), "0")
    return message if rank == "0" else f"[rank {rank}] {message}"


if __name__ == "__main__":
    sys.exit(main())
