"""``memo package``: put a policy in a folder, to share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.overrides import command, override_text

HELP = """Writes a folder in the layout of the Hugging Face Hub: weights, the policy's architecture, how it was
trained, its evaluation, a model card, and a checksum of each file. memo_lightning.load and every checkpoint= setting
accept the folder."""


def main(arguments: Sequence[str]) -> None:
    """Write the package, and print what is in it."""
    if print_help("package", HELP, arguments):
        return
    config = compose_config("package", arguments)
    from memo_lightning.sharing.package import write_package  # torch takes seconds to import

    if not config.checkpoint:
        raise UserError("checkpoint=null: must be the folder of a run or a checkpoint, e.g. checkpoint=runs/NAME")
    if not config.out:
        raise UserError("out=null: must be the folder to create, e.g. out=packages/NAME")
    written = write_package(str(config.checkpoint), Path(str(config.out)), config.tracking_uri, config.evaluation)
    for name, size in written.files.items():
        print(f"{written.folder / name}  {size:,} bytes")
    for remark in written.remarks:
        print(f"note: {remark}")
    evaluate = command("memo", "evaluate", override_text("checkpoint", str(written.folder)))
    push = command("memo", "push", str(written.folder), "repo=OWNER/NAME")
    print(f"\nnext: {evaluate}\n      {push}")
