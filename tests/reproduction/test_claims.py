"""The claims that ship can be read and their runs trained; mistakes in other claims give a one-line error."""

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.errors import UserError
from memo_lightning.reproduction.claim import read_claim, shipped_claims
from memo_lightning.reproduction.results import Results
from memo_lightning.reproduction.runs import merged, plan
from memo_lightning.sweeps.study_file import read_study, shipped_studies
from memo_lightning.training.parts import build_baseline

TINY = Path(__file__).parent / "tiny_claim.yaml"
STUDIES = Path(__file__).parents[2] / "results/studies"
CLAIMS = sorted(shipped_claims())


@pytest.fixture(scope="module")
def planned():
    """Return the runs of every claim that ships, at the quick scale."""
    return {name: plan(read_claim(name), "quick") for name in CLAIMS}


def written(folder, **changes):
    """Write the tiny claim with changes: ``a__b=value`` for a nested field, None to remove it."""
    claim = yaml.safe_load(TINY.read_text())
    for path, value in changes.items():
        *outer, last = path.split("__")
        node = claim
        for key in outer:
            node = node[int(key) if key.isdigit() else key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(claim, sort_keys=False))
    return path


def test_all_claims_of_the_method_ship():
    numbers = {read_claim(name).number for name in CLAIMS}
    assert numbers >= {*map(str, range(1, 11)), "1b"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_overrides_of_claims_fit(name, planned):
    """Every arm's memory can be built, and every evaluation's settings exist."""
    for cell in planned[name]:
        config = OmegaConf.to_container(compose_config("train", cell.runs[0].overrides), resolve=True)
        build_baseline(config)
        if "dataset" not in config["env"]:
            build_env(config["env"], 1, 0).close()
        for overrides in cell.evaluations.values():
            changed = compose_config("evaluate", overrides)
            assert set(changed.env) <= set(config["env"])
    for scale in read_claim(name).scales:
        plan(read_claim(name), scale)


@pytest.mark.slow
def test_claims_share_runs(planned):
    names = {name: {run.name for cell in cells for run in cell.runs} for name, cells in planned.items()}
    assert names["fewer_frames"] < names["matches_full_context"]
    assert names["changing_layouts"] < names["replication_protocol"]
    assert len(names["past_training_length"] & names["matches_full_context"]) == 25
    assert len(names["past_training_length"] - names["matches_full_context"]) == 10
    runs = merged([cell for cells in planned.values() for cell in cells])
    assert len({run.name for run in runs}) == len(runs) == len(set.union(*names.values()))
    memo = next(run for run in runs if run.memory == "memo" and run.environment == "dark_key_to_door" and run.seed == 1)
    assert len(memo.evaluations) >= 8, "those of all claims"


@pytest.mark.slow
def test_all_quick_runs_take_two_cores_a_day_and_a_quarter(planned):
    runs = merged([cell for cells in planned.values() for cell in cells])
    assert sum(run.minutes for run in runs) / 60 <= 62


@pytest.mark.slow
def test_tuning_has_other_seeds_than_claims(planned):
    assert all(run.seed != 0 for cells in planned.values() for cell in cells for run in cell.runs)


@pytest.mark.slow
def test_every_arm_is_tuned_with_as_many_trials():
    studies = {path.stem: read_study(str(path), []) for path in shipped_studies().glob("fair_*.yaml")}
    assert {name.removeprefix("fair_") for name in studies} == set(read_claim("matches_full_context").arms)
    budgets = {(s.settings["n_trials"], s.settings["n_seeds"], s.train_config.total_frames) for s in studies.values()}
    assert len(budgets) == 1
    common = {"algorithm.learning_rate", "algorithm.entropy_coef", "algorithm.n_epochs"}
    for study in studies.values():
        assert common <= set(study.settings["space"])


@pytest.mark.parametrize("path", sorted(STUDIES.glob("fair_*.json")), ids=lambda path: path.stem)
def test_arms_have_the_settings_that_their_studies_found_best(path):
    trials = [trial for trial in json.loads(path.read_text()) if trial["state"] == "complete"]
    best = max(trials, key=lambda trial: trial["values"][0])["settings"]
    config = compose_config("train", [f"experiment={path.stem}"])
    for key, value in best.items():
        wanted = float(f"{value:.2g}") if isinstance(value, float) else value
        assert OmegaConf.select(config, key) == wanted, key
    assert config.choices.env == "dark_key_to_door"
    assert {"none": "memo"}.get(config.choices.baseline, config.choices.baseline) == path.stem.removeprefix("fair_")


@pytest.mark.parametrize("memory", ["memo", "rmt"])
def test_arms_on_the_t_maze_have_the_settings_that_their_studies_found_best(memory):
    trials = json.loads((STUDIES / f"t_maze_{memory}.json").read_text())
    best = max(trials, key=lambda trial: trial["values"][0])["settings"]
    arms = read_claim("t_maze").scale("quick").tasks["t_maze_100"].arms
    for arm in (arm for arm in arms if arm.startswith(memory)):
        chosen = {key: float(value) for key, _, value in (override.partition("=") for override in arms[arm])}
        assert chosen == {key: float(f"{value:.2g}") for key, value in best.items()}


def test_a_run_is_told_by_its_settings_however_they_are_written(tmp_path):
    one = written(tmp_path, arms={"memo": ["algorithm.learning_rate=0.002"], "lstm": ["baseline=lstm"]})
    first = plan(read_claim(str(one)), "quick")[0].runs[0]
    two = written(tmp_path, arms={"memo": ["algorithm.gamma=0.95", "algorithm.learning_rate=2e-3"], "lstm": []})
    assert plan(read_claim(str(two)), "quick")[0].runs[0].name == first.name
    other = plan(read_claim(str(TINY)), "quick")[0].runs[0]
    assert other.name != first.name
    assert other.changed_settings(first.settings) == ["algorithm.learning_rate: 0.002 -> 0.0014"]
    assert other.changed_settings({**other.settings, "removed": 1}) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qestion": "?"}, "qestion: no such field, did you mean question"),
        ({"question": None}, "question"),
        ({"rules__0__kind": "ration"}, "rules[0].kind='ration': must be one of level, every_seed, ratio"),
        ({"rules__0__metric": "returns"}, "rules[0].metric='returns': must be one of return_per_trial"),
        ({"rules__0__at_most": 1.0}, "rules[0]: must have either at_least or at_most, not both"),
        ({"rules__0__at_least": "much"}, "rules[0].at_least"),
        ({"rules__0__against": ["gru"]}, "rules[0].against='gru'"),
        ({"rules__0__evaluations": ["x9"]}, "rules[0].evaluations='x9'"),
        ({"rules__0__tasks": ["continued"]}, "rules[0]: no run has these"),
        ({"rules": []}, "rules=[]: must be a list of at least one rule"),
        ({"plots": ["pie"]}, "plots='pie': must be one of learning_curves"),
        ({"evaluations__longer__arms": ["gru"]}, "evaluations.longer.arms='gru'"),
        ({"scales__quick__seeds": []}, "scales.quick.seeds=[]"),
        ({"scales__quick__seeds": ["one"]}, "seeds"),
        ({"scales__quick__tasks__continued__starts_from": "nothing"}, "starts_from='nothing'"),
        ({"scales__quick__tasks__continued__minuts": 3}, "minuts: no such field, did you mean minutes?"),
        ({"arms__lstm": ["baseline=lstmm"]}, "arm lstm on dark_key_to_door: baseline=lstmm: no such option"),
        ({"arms__lstm": ["seed=3"]}, "seed: cannot be set, as every run sets its own"),
    ],
)
def test_what_is_wrong_with_a_claim_is_one_line(changes, message, in_tmp_dir, capsys):
    assert main(["reproduce", str(written(in_tmp_dir, **changes))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not (in_tmp_dir / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["many_room"], "no such claim 'many_room': did you mean many_rooms?"),
        (["nowhere/mine.yaml"], "nowhere/mine.yaml"),
        ([str(TINY), "scale=paper"], "scale='paper': must be one of quick, the scales of tiny_claim"),
        ([str(TINY), "workers=0"], "workers=0: must be at least 1"),
        ([str(TINY), "worker=2"], "unknown override 'worker': did you mean workers"),
        ([str(TINY), "train=['env.room_sise=3']", "results=other"], "unknown override 'env.room_sise'"),
        ([str(TINY), "train=['env.room_size=3']"], "store them elsewhere with results=DIR"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(arguments, message, in_tmp_dir, capsys):
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not (in_tmp_dir / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 0}', "format=0: must be 1, the format of this version of memo-lightning"),
        ("[1]", "format=None: must be 1"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_results_of_another_version_are_refused(content, message, in_tmp_dir, capsys):
    run = plan(read_claim(str(TINY)), "quick")[0].runs[0]
    path = Results("kept").run_path(run.name)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert main(["reproduce", str(TINY), "results=kept"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    with pytest.raises(UserError, match=str(path)):
        Results("kept").run(run)


def test_the_list_has_every_claim_with_its_question_cost_and_last_verdict(in_tmp_dir, capsys):
    assert main(["reproduce"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) < 100
    lines = {line.split()[1]: line for line in text.splitlines() if line[:1].isdigit()}
    assert set(lines) == set(CLAIMS)
    assert [line.split()[0] for line in lines.values()][:3] == ["1", "1b", "2"]
    assert all(line.endswith("not run yet") for line in lines.values())
    assert "hours" in lines["many_rooms"]
    assert "no runs" in lines["cost"]
    for name in CLAIMS:
        assert read_claim(name).question in " ".join(text.split())
    for fingerprint, state in (
        (read_claim("cost").fingerprint("quick"), "does not hold"),
        ("other", "does not hold, by earlier rules"),
    ):
        Results("results").keep_verdict("cost", "quick", {"verdict": "does not hold", "fingerprint": fingerprint})
        assert main(["reproduce"]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if " cost " in line)
        assert line.endswith(f"   {state}")


def test_a_claim_of_the_benchmark_needs_no_runs(in_tmp_dir, capsys):
    assert main(["reproduce", "cost"]) == 2
    assert "benchmark.json: must be a file written by memo benchmark" in capsys.readouterr().err
    cases = {
        f"acting/{memory}/{length}": {
            "context_length": length,
            "memory": memory,
            **dict.fromkeys(("state_bytes", "step_seconds", "flops_per_step"), cost),
        }
        for memory, cost in (("memo", 1.0), ("full_context", 10.0))
        for length in (4096, 32768)
    }
    (in_tmp_dir / "results").mkdir()
    (in_tmp_dir / "results/benchmark.json").write_text(json.dumps({"cases": cases}))
    assert main(["reproduce", "cost"]) == 0
    assert "cost: holds" in capsys.readouterr().out
    verdict = Results("results").verdict("cost", "quick")
    assert {rule["value"] for rule in verdict["rules"]} == {0.1}
    for case in cases.values():
        case["step_seconds"] = 1.0
    (in_tmp_dir / "results/benchmark.json").write_text(json.dumps({"cases": cases}))
    assert main(["reproduce", "cost"]) == 0
    assert "cost: does not hold" in capsys.readouterr().out
