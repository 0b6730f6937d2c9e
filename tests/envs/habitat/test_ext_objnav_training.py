import json
import re
import shlex
from pathlib import Path

import pytest

from memo_lightning.cli.main import main
from memo_lightning.config import config_dir

TINY = [
    "env.trial_length=24", "env.episode_length=6", "env.dataset.n_placements=2", "collector.n_envs=2",
    "algorithm.n_minibatches=1", "model.segment_length=8", "model.d_model=16", "total_frames=48", "logger=none",
]  # fmt: skip


def test_the_small_experiment_trains_and_is_evaluated_on_other_placements(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "experiment=ext_objnav_small", *TINY, f"run_dir={run}"]) == 0
    checkpoint = run / "checkpoints" / "last.ckpt"
    evaluation = ["split=held_out_placements", "n_trials=2", "n_envs=2", "bin_steps=12"]
    assert main(["evaluate", f"checkpoint={checkpoint}", *evaluation]) == 0
    metrics = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert metrics["by_steps"]["steps"] == [12, 24]
    assert sum(metrics["by_steps"]["n_episodes"]) == sum(metrics["by_episode"]["n_trials"]) >= 2 * 4
    for table in (metrics["by_steps"], metrics["by_episode"]):
        assert len(table["spl"]) == len(table["success"])
        assert all(
            spl is None or 0 <= spl <= success for spl, success in zip(table["spl"], table["success"], strict=True)
        )
    assert "SPL" in capsys.readouterr().out
    assert (run / "evaluation" / "summary_attention.png").is_file()


@pytest.mark.parametrize("engine", ["batched", "habitat"])
@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("env.simulator=habitat_sim", "habitat-sim is not installed"),
        ("env.split=heldout", "env.split='heldout': must be one of train, held_out_placements, held_out"),
        ("env.dataset.n_types=7", "env.dataset.n_objects=2: must be at least n_types=7"),
        (
            "env.dataset.min_rooms=1 env.dataset.max_rooms=1 env.dataset.n_objects=50",
            "env.dataset.n_objects=50: must be lower, or min_rooms higher, as house-1to1rooms",
        ),
        ("env.workers=3", "env.workers=3: must be"),
        ("env.engine=fast", "env.engine='fast': must be batched or habitat"),
        ("env.simulator=unity", "env.simulator='unity': must be house_sim or habitat_sim"),
        ("env.scene_dataset=a.json", "env.scene_dataset='a.json': must be empty"),
        ("env.position_frame=room", "env.position_frame='room': must be trial or house"),
        ("env.sensors=[sonar]", "env.sensors='sonar': must be among rgb, depth, columns"),
        ("env.sensors=[rgb,semantic]", "env.sensors='semantic': must be among rgb, depth, columns"),
        ("env.n_columns=0", "env.n_columns=0: must be between 1 and 4096"),
        ("env.sensors=[rgb] env.image_size=32", "env.image_size=32: must be between 64 and 256"),
        ("env.object_range=9", "env.object_range=9: must be above 0 and at most 8.0"),
        ("env.data_path=nowhere.jsonl", "episode file nowhere.jsonl cannot be read"),
        ("env/vision=vit", "env/vision=vit: the environment has no image observations; leave it out"),
    ],
)
def test_mistakes_are_one_line_with_both_engines(override, complaint, engine, tmp_path, capsys):
    if "habitat_sim" in override:
        from memo_lightning.envs.habitat.shim import habitat_sim_is_installed

        if habitat_sim_is_installed():
            pytest.skip("is about machines without habitat-sim")
    given = [f"env.engine={engine}", *override.split()]
    arguments = ["train", "experiment=ext_objnav_small", *TINY, *given, f"run_dir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert complaint in error[-1]
    assert not (tmp_path / "run").exists()


SIZES = {"collector.n_envs=4", "algorithm.n_minibatches=4", "env.workers=4", "env.simulator=habitat_sim"}


def test_the_documented_settings_for_habitat_sim_are_those_that_exporting_houses_prints():
    docs = (Path(__file__).parents[3] / "docs" / "how-to" / "habitat-sim.md").read_text()
    for text in (docs, (config_dir() / "env" / "ext_objnav.yaml").read_text()):
        (line,) = re.findall(r".*env\.simulator=habitat_sim(?!`).*", text)[:1]
        assert set(line.split()) >= SIZES


@pytest.mark.slow
def test_the_command_for_habitat_sim_runs_with_the_embedded_simulator(tmp_path, capsys):
    small = ["n_houses=1", "n_placements=2", "n_episodes=4", "min_rooms=2", "max_rooms=2", "n_types=3", "n_objects=3"]
    exported = f"run_dir={tmp_path / 'houses'}"
    assert main(["export-houses", exported, *(f"dataset.{option}" for option in small)]) == 0
    (command,) = re.findall(r"^next: memo (train .*)$", capsys.readouterr().out, re.MULTILINE)
    words = shlex.split(command)
    assert set(words) >= SIZES
    kept = [word for word in words if not word.startswith(("env.simulator=", "env.scene_dataset="))]
    short = ["env.engine=habitat", "env.trial_length=16", "env.episode_length=8", "total_frames=64", "logger=none"]
    model = ["model.segment_length=8", "model.d_model=16", "model.n_heads=2", f"run_dir={tmp_path / 'run'}"]
    assert main([*kept, *short, *model]) == 0, capsys.readouterr().err[-500:]
