"""Packages: their contents, acting like the original run, and detection of manual changes."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.policies.package import manifest_of, read_json, sha256, write_json
from tiny import TINY_TRAINING

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "evaluation.json", "in_context_curve.png", "manifest.json", "model.safetensors", "policy.json"]
FILES += ["training.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder in which a run was trained, evaluated and packaged."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", *TINY_TRAINING, "total_frames=640", f"run_dir={folder}/runs/a"]) == 0
        assert main(["evaluate", "checkpoint=runs/a", "n_trials=4", "n_envs=4"]) == 0
        assert main(["package", "checkpoint=runs/a", "out=shared/policy"]) == 0
    return folder


@pytest.fixture
def package(trained, tmp_path):
    """Return a copy of the package, for tests that damage it."""
    return shutil.copytree(trained / "shared/policy", tmp_path / "policy")


def actions_of(agent, n_steps=30):
    """Return actions of an agent, alternately most likely and sampled."""
    rng, state, actions = np.random.default_rng(0), agent.initial_state(), []
    for t in range(n_steps):
        observation = rng.uniform(-1, 1, agent.observation_space.shape).astype(np.float32)
        action, state = agent.act(observation, state, float(rng.normal()), t % 7 == 6, deterministic=t % 2 == 0)
        actions.append(int(action))
    return actions


def test_evaluating_a_package_runs_no_code_that_it_names_unless_told_to(package, in_tmp_dir, capsys):
    """Its files are consistent, as an attacker would make them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    training = read_json(package / "training.json")
    training["config"]["env"] = {
        "_target_": "memo_lightning.envs.custom.make_custom_env",
        "target": "os:system",
        "settings": {"command": f"touch {in_tmp_dir}/ran"},
        "trial_length": 1,
    }
    write_json(package / "training.json", training)
    with safe_open(package / "model.safetensors", framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        copies = {**file.metadata(), "training.json": (package / "training.json").read_text()}
    save_file(weights, package / "model.safetensors", copies)
    write_json(package / "manifest.json", manifest_of(package))
    evaluate = ["evaluate", f"checkpoint={package}", "n_trials=4", "n_envs=4"]
    assert main(evaluate) == 2
    error = capsys.readouterr().err
    assert "not part of memo-lightning: env.target=os:system; if you trust it, add trust_env=true" in error
    assert not (in_tmp_dir / "ran").exists()
    assert main([*evaluate, "trust_env=true"]) == 2
    assert (in_tmp_dir / "ran").exists(), "the test would find it"


def test_a_package_holds_all_that_belongs_to_a_policy(trained):
    folder = trained / "shared/policy"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in (trained / "shared").iterdir()] == ["policy"], "nothing is left beside it"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["memo_package"] == 1
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: sha256(folder / name) for name in FILES if name != "manifest.json"
    }
    evaluation = json.loads((trained / "runs/a/evaluation/evaluation.json").read_text())
    shared = json.loads((folder / "evaluation.json").read_text())
    assert shared["return_per_trial"] == evaluation["return_per_trial"]
    assert (folder / "in_context_curve.png").read_bytes() == (
        trained / "runs/a/evaluation/in_context_curve.png"
    ).read_bytes()


def test_the_card_says_in_which_settings_the_evaluation_differs_from_training(trained, monkeypatch, capsys):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(trained)
    plain = (trained / "shared/policy/README.md").read_text()
    assert "| settings that differ from training | none |" in plain
    changes = ["env.episode_length=8", "model.segment_length=5", "trial_multiplier=2", "run_dir=changed"]
    assert main(["evaluate", "checkpoint=runs/a", "n_trials=4", "n_envs=4", *changes]) == 0
    capsys.readouterr()
    assert main(["package", "checkpoint=runs/a", "out=shared/changed", "evaluation=changed"]) == 0
    changed = ["env.trial_length=80", "env.episode_length=8", "model.segment_length=5"]
    assert f"note: its evaluation differs from training in {', '.join(changed)}" in capsys.readouterr().out
    text = (trained / "shared/changed/README.md").read_text()
    assert "| settings that differ from training | `env.trial_length=80`, `env.episode_length=8`, `model.segm" in text
    card = hub.ModelCard(text)
    assert {result.dataset_config for result in card.data.eval_results} == {", ".join(changed)}
    shutil.rmtree(trained / "shared/changed")


def test_it_says_nothing_of_who_made_it(trained):
    for path in (trained / "shared/policy").iterdir():
        held = path.read_bytes()
        for private in (str(trained), str(Path.home()), "mlflow.db", "sqlite"):
            assert private.encode() not in held, f"{path.name}: {private}"


def test_it_acts_as_the_checkpoint_that_it_is_made_of(trained):
    first, second = (memo_lightning.load(trained / source, seed=3) for source in ("runs/a", "shared/policy"))
    assert second.spec.as_plain() == first.spec.as_plain()
    weights = first.policy.state_dict()
    assert second.policy.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in second.policy.state_dict().items())
    actions = actions_of(first)
    assert len(set(actions)) > 1
    assert actions_of(second) == actions
    assert second.training["frames"] == 640
    assert (
        memo_lightning.load(trained / "shared/policy", model={"memory_budget": 14}).spec.memory["memory_budget"] == 14
    )


def test_it_is_a_checkpoint_to_evaluate_to_train_from_and_to_package(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    small = ["n_trials=4", "n_envs=4", "seed=5"]
    assert main(["evaluate", "checkpoint=shared/policy", *small, "run_dir=b"]) == 0
    assert main(["evaluate", "checkpoint=runs/a", *small, "run_dir=c"]) == 0
    of_package, of_run = (json.loads(Path(name, "evaluation.json").read_text()) for name in "bc")
    assert of_package["return_per_trial"] == of_run["return_per_trial"]
    assert main(["train", *TINY_TRAINING, "total_frames=320", "run_dir=runs/d", "checkpoint=shared/policy"]) == 0
    assert main(["package", "checkpoint=shared/policy", "out=again"]) == 0
    assert "note" not in capsys.readouterr().out, "its evaluation and its curve go along"
    assert actions_of(memo_lightning.load("again", seed=1)) == actions_of(memo_lightning.load("runs/a", seed=1))
    assert Path("again/evaluation.json").is_file()


def test_the_card_is_one_of_the_hub(trained):
    hub = pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
    text = (trained / "shared/policy/README.md").read_text()
    card = hub.ModelCard(text)
    card.validate = None  # it would contact the Hub
    evaluation = json.loads((trained / "shared/policy/evaluation.json").read_text())
    assert card.data.library_name == "memo-lightning"
    assert {"reinforcement-learning", "memo", "dark_key_to_door"} <= set(card.data.tags)
    (result, *_) = card.data.eval_results
    assert (result.task_type, result.dataset_name) == ("reinforcement-learning", "dark_key_to_door")
    assert result.metric_value == pytest.approx(evaluation["return_per_trial"], abs=1e-4)
    front = yaml.safe_load(text.split("---")[1])
    assert front["model-index"][0]["name"] == "memo-dark_key_to_door"
    assert "in_context_curve.png" in text
    for block in text.split("```python\n")[1:]:
        code = block.split("```")[0].replace("hf:OWNER/NAME", str(trained / "shared/policy"))
        exec(code, {})  # noqa: S102


def rewrite(path, *keys, value):
    """Change one field of a JSON file."""
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content, indent=2) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: rewrite(p / "policy.json", "memory", "d_model", value=32),
            "policy.json: memory.d_model=32 was changed by hand (it was 16)",
        ),
        (
            lambda p: rewrite(p / "policy.json", "interface", "action", "n", value="five"),
            'policy.json: interface.action.n="five" was changed by hand (it was ',
        ),
        (
            lambda p: rewrite(p / "training.json", "config", "algorithm", "gamma", value=0.5),
            "training.json: config.algorithm.gamma=0.5 was changed by hand (it was ",
        ),
        (
            lambda p: rewrite(p / "evaluation.json", "return_per_trial", value=1e6),
            "evaluation.json: return_per_trial=1000000.0 was changed by hand (it was ",
        ),
        (
            lambda p: rewrite(p / "evaluation.json", "return_by_quarter", 2, value=9.0),
            "evaluation.json: return_by_quarter[2]=9.0 was changed by hand",
        ),
        (lambda p: (p / "policy.json").write_text("{"), "policy.json: cannot be read as JSON"),
        (lambda p: (p / "policy.json").unlink(), "policy.json: missing from the package"),
        (lambda p: (p / "policy.json").write_text((p / "policy.json").read_text() + "\n"), "its SHA-256 differs"),
        (lambda p: (p / "in_context_curve.png").write_bytes(b"x"), "in_context_curve.png: was changed after packaging"),
        (lambda p: os.truncate(p / "model.safetensors", 4000), "model.safetensors: was changed after packaging"),
        (lambda p: (p / "manifest.json").write_text("[]"), "manifest.json: not the manifest of a memo package"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json: cannot be read as JSON"),
        (
            lambda p: rewrite(p / "manifest.json", "memo_package", value=7),
            "manifest.json: memo_package=7, written by memo-lightning",
        ),
        (
            lambda p: rewrite(p / "manifest.json", "files", "../../x", value={"sha256": ""}),
            "files contains '../../x': must be the name of a file in the same folder",
        ),
        (lambda p: rewrite(p / "manifest.json", "files", value={}), "files has no model.safetensors, policy.json"),
    ],
)
def test_what_was_changed_by_hand_is_named(spoil, message, package, capsys):
    spoil(package)
    assert main(["evaluate", f"checkpoint={package}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert str(package) in error


def test_a_checksum_that_was_changed_too_hides_no_change(package):
    rewrite(package / "policy.json", "memory", "d_model", value=32)
    write_json(package / "manifest.json", manifest_of(package))
    with pytest.raises(UserError, match=r"policy.json: memory.d_model=32 was changed by hand \(it was 16\)"):
        memo_lightning.load(package)


def test_the_model_card_may_be_edited_and_files_may_be_added(package):
    (package / "README.md").write_text("My policy.\n")
    (package / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert memo_lightning.load(package).training["frames"] == 640


def test_infinities_come_back(tmp_path):
    values = {"low": [float("-inf"), 0.5], "high": float("inf"), "text": "inf", "none": None}
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json") == values
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_mistakes_are_one_line_and_leave_nothing(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trained / "runs/a"
    stale = shutil.copytree(run, tmp_path / "stale") / "evaluation/evaluation.json"
    rewrite(stale, "frames_trained", value=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    before = sorted(path.name for path in tmp_path.iterdir())
    for words, message in {
        "out=x": "checkpoint=null: must be the folder of a run",
        f"checkpoint={run}": "out=null: must be the folder to create",
        f"checkpoint={run} out=full": "out=full: exists and is not empty; must be a new folder",
        f"checkpoint={run} out=/proc/x": "out=/proc/x: must be writable",
        f"checkpoint={run} out=x evaluation=full": "evaluation=full: must be an output folder of memo evaluate",
        f"checkpoint={run} out=x evaluation=stale/evaluation": "evaluates a policy trained for 1 frames; this one",
        "checkpoint=full out=x": "full: neither a run (no checkpoints/last.ckpt) nor a package (no manifest.json)",
        "checkpoint=none out=x": "checkpoint=none: no such file; must be the folder of a run, a checkpoint, the folder",
    }.items():
        assert main(["package", *words.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert main(["package", "checkpoint=stale", "out=x"]) == 0
    assert "note: no evaluation: stale/evaluation: evaluates a policy trained for 1 frames" in capsys.readouterr().out
    assert not (tmp_path / "x/evaluation.json").exists()


ACT = """
import sys
import memo_lightning
sys.path.insert(0, sys.argv[2])
print(memo_lightning.__file__)
import numpy as np
rng = np.random.default_rng(0)
agent = memo_lightning.load(sys.argv[1], seed=3)
state, actions = agent.initial_state(), []
for t in range(30):
    observation = rng.uniform(-1, 1, agent.observation_space.shape).astype(np.float32)
    action, state = agent.act(observation, state, float(rng.normal()), t % 7 == 6, deterministic=t % 2 == 0)
    actions.append(int(action))
print(actions)
"""


@pytest.mark.slow
def test_a_clean_environment_without_the_source_tree_loads_and_acts(trained, tmp_path):
    """Uses an environment with only the wheel; its dependencies are borrowed from this environment."""
    pytest.importorskip("hatchling", reason="hatchling, of the dev extra, is not installed")
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(wheels),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = wheels.glob("memo_lightning-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    (own,) = venv.glob("lib/python*/site-packages")
    # A path in a .pth file is searched last, and .pth files inside it, such as of an editable install, are ignored.
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    copy = shutil.copytree(trained / "shared/policy", tmp_path / "policy")
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    command = [python, "-c", ACT, copy, tmp_path]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    where, actions = result.stdout.splitlines()
    assert Path(where).is_relative_to(venv)
    assert json.loads(actions) == actions_of(memo_lightning.load(trained / "runs/a", seed=3))


def test_the_example_of_the_how_to_acts(trained, monkeypatch):
    monkeypatch.chdir(trained)
    (block,) = (ROOT / "docs/how-to/share.md").read_text().split("```python\n")[1:]
    names = {}
    exec(block.split("```")[0].replace("packages/NAME", "shared/policy"), names)  # noqa: S102
    assert names["agent"].action_space.contains(names["action"])
