import json

import pytest

from memo_lightning.cli.main import main

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


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("env.simulator=habitat_sim", "habitat-sim is not installed"),
        ("env.split=heldout", "split='heldout': must be one of train, held_out_placements, held_out"),
        ("env.dataset.n_types=7", "n_objects=2: must be at least n_types=7"),
        ("env.workers=3", "env.workers=3"),
        ("env/vision=vit", "env/vision=vit: the environment shows no images; leave it out"),
    ],
)
def test_mistakes_are_one_line(override, complaint, tmp_path, capsys):
    if "habitat_sim" in override:
        from memo_lightning.envs.habitat.shim import habitat_sim_is_installed

        if habitat_sim_is_installed():
            pytest.skip("is about machines without habitat-sim")
    arguments = ["train", "experiment=ext_objnav_small", *TINY, override, f"run_dir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert complaint in error[-1]
    assert not (tmp_path / "run").exists()
