"""``memo export-houses``: write generated houses as files for habitat-sim."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from memo_lightning.cli.help import print_help
from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.overrides import command, override_text

HELP = """Writes generated houses, the object types and the episodes in them as a habitat-sim scene dataset:
textured .glb models, their configurations, and <split>.jsonl.gz with placements, goals and starts."""


def main(arguments: Sequence[str]) -> None:
    """Write the files, then print where they are and how to use them."""
    if print_help("export-houses", HELP, arguments):
        return
    config = compose_config("export-houses", arguments)
    from memo_lightning.envs.habitat.config import make_config
    from memo_lightning.envs.habitat.dataset import ExtObjNavDataset
    from memo_lightning.envs.habitat.scene_files.export import SCENE_DATASET, export_houses
    from memo_lightning.envs.object_navigation.settings import check_dataset

    check_dataset(config.split, config.dataset, prefix="")
    dataset = ExtObjNavDataset(make_config(split=config.split, dataset=dict(config.dataset)).habitat.dataset)
    folder = Path(config.run_dir)
    print(
        f"exporting {len(dataset.scene_ids)} houses of split {config.split} with {dataset.n_placements} object "
        f"placements; writing to {folder}",
        file=sys.stderr,
        flush=True,
    )
    try:
        with tqdm(unit=" files", desc="writing") as bar:
            n_rejected = export_houses(dataset, config.split, folder, lambda _: bar.update())
    except OSError as error:
        raise UserError(f"run_dir={folder}: must be writable ({error.strerror})") from None
    sizes = ["collector.n_envs=4", "algorithm.n_minibatches=4", "env.workers=4", "env.simulator=habitat_sim"]
    files = [
        override_text("env.scene_dataset", f"{folder}/{SCENE_DATASET}"),
        override_text("env.data_path", str(folder)),
    ]
    print(f"""
houses      {len(dataset.scene_ids)} with {dataset.n_placements} object placements
rejected    {n_rejected} object positions that could not be reached or seen
results     {folder}/

next: {command("memo", "train", "env=ext_objnav", f"env.split={config.split}", *sizes, *files)}""")
    if config.split == "train":
        others = [text for text in arguments if not text.startswith("split=")]
        print(f"      {command('memo', 'export-houses', *others, 'split=held_out')}   # needed for memo evaluate")
