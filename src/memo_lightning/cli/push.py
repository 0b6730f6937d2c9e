"""``memo push``: upload a package to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError

HELP = """Uploads a folder written by memo package: memo push DIR repo=OWNER/NAME. Load it from there with
memo_lightning.load("hf:OWNER/NAME")."""


def main(arguments: Sequence[str]) -> None:
    """Upload the package, and print where it is."""
    folders = [word for word in arguments if "=" not in word and not word.startswith("-")]
    overrides = [word for word in arguments if word not in folders]
    if print_help("push", HELP, overrides):
        return
    config = compose_config("push", overrides)
    if len(folders) != 1:
        raise UserError("memo push needs one folder and a repository: memo push DIR repo=OWNER/NAME")
    if not config.repo:
        raise UserError(
            f"repo=null: must be OWNER/NAME on the Hugging Face Hub: memo push {folders[0]} repo=OWNER/NAME"
        )
    from memo_lightning.sharing.push import push_package

    address = push_package(Path(folders[0]), str(config.repo), private=config.private)
    print(f"uploaded to {address}\n\nload it with memo_lightning.load('hf:{config.repo}')")
