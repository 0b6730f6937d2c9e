"""The ``memo`` command: finds the verb, and turns a user's mistake into one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from memo_lightning.config import nearest
from memo_lightning.errors import UserError

# Verb -> what it does. Each is the function ``main(arguments)`` of a module of this package, imported on use:
# the parts of one command need not be loaded for another.
VERBS = {
    "train": "train a policy",
    "evaluate": "run a checkpoint on held-out trials",
    "benchmark": "measure what every memory costs",
    "ui": "look at runs in the browser",
}
USAGE_ERROR = 2
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``memo VERB [override ...]`` and return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: memo VERB [override ...]\n")
        print("\n".join(f"  {verb:<10} {text}" for verb, text in VERBS.items()))
        print("\n`memo VERB --help` lists the verb's settings.")
        return 0
    verb, *rest = arguments
    return run(verb, rest)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb and return the exit status; a :class:`UserError` becomes one line on stderr."""
    try:
        if verb not in VERBS:
            raise UserError(f"no such verb {verb!r}: {nearest(verb, VERBS)}")
        module = importlib.import_module(f"memo_lightning.cli.{verb}")
        module.main(arguments)
    except UserError as error:
        print(f"memo: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
