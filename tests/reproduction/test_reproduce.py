"""``memo reproduce`` on a short claim: it is killed and resumed, keeps its runs, and repeats them if needed."""

import copy
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from memo_lightning.cli.main import main
from memo_lightning.evaluation.statistics import interquartile_mean
from memo_lightning.reproduction.claim import PLOTS, read_claim
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import plan
from memo_lightning.training.run_dir import checkpoint_path
from started import end, session, start

TINY = Path(__file__).parent / "tiny_claim.yaml"


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results/runs").glob("*.json")}


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory):
    """Run a claim's command, kill it once the first run is saved, and run it again."""
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        process = start(["memo_lightning.cli.main", "reproduce", str(TINY), "workers=2"], folder)
        try:
            deadline = time.monotonic() + 240
            while not stamps(folder) and time.monotonic() < deadline:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            for _ in range(100):  # its workers exit with it
                if not session(process):
                    break
                time.sleep(0.1)
            left = [other.cmdline() for other in session(process)]
        finally:
            end(process)
        before = stamps(folder)
        assert main(["reproduce", str(TINY), "workers=2"]) == 0
    return folder, before, left


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_continues(killed_and_finished):
    folder, before, left = killed_and_finished
    assert left == []
    assert 0 < len(before) < 6
    after = stamps(folder)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before, "runs that were kept are not made again"
    assert not list((folder / "results").rglob("*.partial"))


@pytest.mark.slow
def test_the_verdict_is_that_of_the_runs_that_were_kept(killed_and_finished):
    folder, _, _ = killed_and_finished
    verdict = json.loads((folder / "results/claims/tiny_claim.json").read_text())
    assert verdict["verdict"] in ("holds", "does not hold", "undecided")
    names = {name for part in verdict["runs"].values() for name in part}
    assert names == {path.stem for path in (folder / "results/runs").glob("*.json")}
    runs = {name: json.loads((folder / f"results/runs/{name}.json").read_text()) for name in names}

    def mean(arm):
        names = verdict["runs"][f"dark_key_to_door/{arm}"]
        key = "n_envs=8 n_trials=8"
        return interquartile_mean([runs[name]["evaluations"][key]["return_per_trial"] for name in names])

    rule = verdict["rules"][0]
    assert rule["value"] == pytest.approx(mean("memo") / mean("lstm")) if mean("lstm") else rule["value"] is None
    assert verdict["published"] == {"says": "nothing", "source": "this is a test"}
    score = next(s for s in verdict["scores"] if (s["arm"], s["evaluation"]) == ("memo", "trained_length"))
    assert score["return_per_trial"]["mean"] == pytest.approx(mean("memo"))
    assert score["seeds"] == [1, 2]
    assert score["parameters"] > 1000
    for run in runs.values():
        assert run["settings"]["total_frames"] == run["training"]["frames"] == 640
        assert run["code"]
        assert run["training"]["wall_seconds"] > 0
    for plot in PLOTS:
        assert (folder / f"runs/reproduce/plots/tiny_claim-{plot}.png").stat().st_size > 5000


@pytest.mark.slow
def test_runs_bounded_by_a_budget_hold_less(killed_and_finished):
    folder, _, _ = killed_and_finished
    claim = plan(read_claim(str(TINY)), "quick")[0]
    kept = Results(folder / "results").run(claim.runs[0])
    longer = kept["evaluations"]["n_envs=8 n_trials=8 trial_multiplier=2"]
    bounded = kept["evaluations"]["memory_budget=18 n_envs=8 n_trials=8 trial_multiplier=2"]
    assert bounded["memory_budget"] == 18
    assert bounded["memory_bytes"] < longer["memory_bytes"]
    assert longer["trial_length"] == bounded["trial_length"] == 80


@pytest.mark.slow
def test_another_evaluation_needs_no_training(killed_and_finished, tmp_path, capfd, monkeypatch):
    made, _, _ = killed_and_finished
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    before = stamps(folder)
    assert main(["reproduce", str(TINY)]) == 0
    assert stamps(folder) == before
    more = tmp_path / "more.yaml"
    text = TINY.read_text().replace("trial_multiplier=2, memory_budget=18", "trial_multiplier=3, memory_budget=18")
    more.write_text(text.replace("[1, 2]", "[1]"))
    trained = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("last.ckpt")}
    capfd.readouterr()
    assert main(["reproduce", str(more)]) == 0
    assert "1 to do: about" in capfd.readouterr().err, "only Memo's first seed is evaluated in another way"
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("last.ckpt")} == trained
    assert len(stamps(folder)) == 6
    verdict = json.loads((folder / "results/claims/more.json").read_text())
    assert verdict["verdict"] == "undecided", "one seed has no interval"
    (name,) = verdict["runs"]["dark_key_to_door/memo"]
    kept = json.loads((folder / f"results/runs/{name}.json").read_text())
    assert len(kept["evaluations"]) == 4, "earlier evaluations of the same training are kept"


@pytest.mark.slow
@pytest.mark.parametrize("learned_the_same", [True, False])
def test_evaluations_of_trainings_that_learned_otherwise_are_not_mixed(
    learned_the_same, killed_and_finished, tmp_path, monkeypatch
):
    """On another machine the stored result is there and the folder of the run is not."""
    made, _, _ = killed_and_finished
    shutil.copytree(made / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    claim = yaml.safe_load(TINY.read_text())
    claim["scales"]["quick"]["seeds"] = [1]
    claim["scales"]["quick"]["tasks"].pop("continued")
    claim["evaluations"]["more"] = {"overrides": ["n_trials=8", "n_envs=8", "trial_multiplier=3"], "arms": ["memo"]}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(claim, sort_keys=False))
    run = plan(read_claim("more.yaml"), "quick")[0].runs[0]
    path = Results("results").run_path(run.name)
    before = json.loads(path.read_text())
    if not learned_the_same:
        before["training"]["history"][-1][1] += 0.5
        path.write_text(json.dumps(before))
    assert main(["reproduce", "more.yaml"]) == 0
    after = json.loads(path.read_text())
    assert len(after["evaluations"]) == len(run.evaluations) == 4
    for key, evaluation in before["evaluations"].items():
        is_kept = after["evaluations"][key]["seconds"] == evaluation["seconds"]
        assert is_kept == learned_the_same, key


@pytest.mark.slow
def test_a_run_whose_defaults_have_changed_is_made_again(killed_and_finished, tmp_path, capfd, monkeypatch):
    made, _, _ = killed_and_finished
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    run = plan(read_claim(str(TINY)), "quick")[-1].runs[0]
    path = Results("results").run_path(run.name)
    kept = json.loads(path.read_text())
    kept["settings"]["algorithm.gamma"] = 0.5
    path.write_text(json.dumps(kept))
    config = folder / "runs/reproduce" / run.name / "config.yaml"
    config.write_text(config.read_text().replace("gamma: 0.95", "gamma: 0.5"))
    weights = checkpoint_path(config.parent).stat().st_mtime_ns
    capfd.readouterr()
    assert main(["reproduce", str(TINY)]) == 0
    said = capfd.readouterr().err
    assert f"{run.name}: will be made again, as defaults have changed: algorithm.gamma: 0.5 -> 0.95" in said
    assert checkpoint_path(config.parent).stat().st_mtime_ns > weights
    assert json.loads(path.read_text())["settings"]["algorithm.gamma"] == 0.95


@pytest.mark.slow
def test_a_run_that_fails_is_said_in_one_line_and_the_others_are_kept_and_judged(in_tmp_dir, capfd):
    """Of two claims, the one that has its runs is judged; short runs come first."""
    claim = yaml.safe_load(TINY.read_text())
    claim["scales"]["quick"]["seeds"] = [1]
    failing = copy.deepcopy(claim)
    failing["arms"]["lstm"].append("algorithm.gamma=2.0")
    claim["arms"].pop("lstm")
    claim["evaluations"] = {"trained_length": claim["evaluations"]["trained_length"]}
    train = claim["scales"]["quick"]["tasks"]["dark_key_to_door"]["train"]
    short = {"train": [*train, "total_frames=320"], "minutes": 0.01}
    claim["scales"]["quick"]["tasks"] = {"short": short}
    claim["rules"] = [claim["rules"][1]]
    for name, content in {"failing": failing, "right": claim}.items():
        (in_tmp_dir / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["reproduce", "failing.yaml", "right.yaml"]) == 1
    said = capfd.readouterr()
    error = said.err.splitlines()[-1]
    assert error.startswith("memo: 1 run(s) failed; the same command retries them: ")
    assert "gamma=2.0" in error
    assert "output.log" in error
    assert len(stamps(in_tmp_dir)) == 3
    assert [path.name for path in (in_tmp_dir / "results/claims").iterdir()] == ["right.json"]
    assert "\nright: " in said.out
    first = next(line for line in said.err.splitlines() if line.startswith("starts"))
    assert first.split()[1] in {run.name for cell in plan(read_claim("right.yaml"), "quick") for run in cell.runs}
