"""``lightning run [model] ... SCRIPT``: the launcher that Lightning now calls ``fabric run``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning.fabric.cli import _main as fabric


def main(arguments: Sequence[str] | None = None) -> None:
    """Pass the arguments to Lightning's launcher; the obsolete word ``model`` is accepted and dropped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:2] == ["run", "model"]:
        del arguments[1]
    fabric(arguments, prog_name="lightning")


if __name__ == "__main__":
    main()
