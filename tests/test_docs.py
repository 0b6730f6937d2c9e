"""The documentation builds without a warning, and the commands it shows work."""

import html
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
import yaml
from hydra.utils import get_object

from memo_lightning.callbacks.baseline import SHARED
from memo_lightning.cli.main import VERBS, main
from memo_lightning.config import compose_config, config_dir, group_options
from memo_lightning.construct import accepted
from memo_lightning.models import SequenceModel
from tiny import TINY_TRAINING

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Appended to training commands to make them short.
SMALL_TRAINING = [
    *TINY_TRAINING,
    "total_frames=1280",
    "collector.n_envs=16",
]


def commands_of(path):
    """Return every `memo` command of a text in order, from code blocks, tables and sentences."""
    text = path.read_text().replace("\\\n", " ")  # continued lines
    found = re.findall(r"^ *(memo .*)$|`(memo [^`]*)`", text, re.MULTILINE)
    return list(dict.fromkeys(" ".join((line or inline).split()) for line, inline in found))


# Every command is run at a small size, except for these.
NOT_RUN = {
    r"^memo (evaluate|export)$": "the name of a verb, in a sentence",
    r"^memo ui|http://": "servers run until they are ended: tests/tracking/test_server.py",
    r"^memo serve": "the same: tests/serving/test_service.py",
    r"^memo push|hf:": "goes to the Hub: tests/sharing/test_hub.py",
    r"trainer=gpu|accelerator=gpu": "needs GPUs",
    r"trainer\.devices=2": "two processes, which import everything: tests/training/test_launchers.py",
    r"collector=multi_": "eight processes, which import everything: tests/data/test_workers.py",
    r"collector=ray": "a cluster: tests/data/test_ray.py",
    r"simulator=habitat_sim": "needs habitat-sim: tests/envs/habitat/test_habitat_sim.py",
    r"\$task": "a loop over tasks of POPGym; one of them runs",
    r"^memo reproduce \w": "hours; a small claim runs in tests/reproduction/test_reproduce.py",
    r"^memo benchmark(?! context_lengths| 'arms)": "hours, or like the first look, which runs",
}


def why_not_run(command):
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


NOT_RUN_COMMANDS = sorted({(path.name, c) for path in TEXTS for c in commands_of(path) if why_not_run(c)})


@pytest.mark.parametrize(("page", "command"), NOT_RUN_COMMANDS, ids=lambda value: value.replace("memo ", ""))
def test_commands_that_do_not_run_name_verbs_and_settings_that_exist(page, command):
    _, verb, *words = shlex.split(command.split("#")[0])
    if verb.isupper():  # VERB is a placeholder
        return
    assert verb in VERBS
    overrides = [
        word for word in words if "=" in word and not word.startswith("resume=") and not word.endswith(".yaml")
    ]
    if verb == "sweep":
        study = set(compose_config("sweep"))
        overrides = [word for word in overrides if word.partition("=")[0] not in study]
        compose_config("train", overrides)
    elif verb != "completion":  # a verb without its own file takes the settings of memo train
        compose_config(verb if (config_dir() / f"{verb}.yaml").is_file() else "train", overrides)


# Appended to commands to make them short; otherwise they run as written.
SMALL = {
    "check-env": ["collector.n_envs=4", "algorithm.n_minibatches=2"],
    "evaluate": ["n_trials=4", "n_envs=4"],
    "export-houses": ["dataset.n_houses=1", "dataset.n_placements=1", "dataset.n_episodes=2"],
    "benchmark": [
        "context_lengths=[64]",
        *("model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.d_ff=32"),
        *("model.segment_length=16", "model.summary_length=2"),
        *("staggered=[]", "input_sets=1", "acting_rows=2", "measures=[acting]"),
    ],
}
SMALL_TASK = [  # for training on other tasks, whose lengths differ
    *("total_frames=1", "env.trial_length=100", "collector.n_envs=4", "algorithm.n_minibatches=2"),
    *("model.d_model=16", "model.d_ff=32", "model.segment_length=25"),
]


def small(verb, words):
    """Return the overrides to append to a command."""
    if verb == "sweep":
        space = yaml.safe_load((ROOT / words[0]).read_text())["space"]
        sizes = SMALL_TASK if "model.segment_length" in space else SMALL_TRAINING
        return [*(size for size in sizes if size.partition("=")[0] not in space), "n_trials=1"]
    if verb != "train":
        return SMALL.get(verb, [])
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if "resume" in given:
        return ["total_frames=1280"]
    if given.get("experiment", "").startswith("ext_objnav"):
        sizes = ["env.dataset.n_placements=2", "env.trial_length=92"]
        evaluated = given == {"experiment": "ext_objnav_small"}
        return [*SMALL_TASK, *sizes, *(["run_dir=runs/houses_run"] if evaluated else [])]
    other_task = {"env", "env._target_"} & set(given) or not given.get("experiment", "x.yaml").endswith(".yaml")
    off_policy = given.get("algorithm") == "actor_critic" or given.get("experiment", "").endswith("_off_policy")
    if off_policy and other_task:
        return [word for word in SMALL_TASK if not word.startswith("algorithm.n_minibatches")]
    return SMALL_TASK if other_task else SMALL_TRAINING


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder in which one training has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        assert main(["train", *SMALL_TRAINING, "total_frames=640", "run_dir=runs/NAME"]) == 0
        return Path.cwd()


@pytest.fixture
def folder(trained, in_tmp_dir, monkeypatch):
    """Return a folder with what the placeholders in commands stand for: a run and user modules."""
    shutil.copytree(trained, in_tmp_dir, dirs_exist_ok=True)
    config = in_tmp_dir / "runs/NAME/config.yaml"  # it names the store
    config.write_text(config.read_text().replace(str(trained), str(in_tmp_dir)))
    (in_tmp_dir / "my").mkdir()
    (in_tmp_dir / "my/module.py").write_text(
        "import gymnasium\n\nfrom memo_lightning.models import GRU\n\n\n"
        "class MyModel(GRU):\n    def __init__(self, d_model):\n        super().__init__(d_model=d_model, n_layers=1)\n"
        "\n\ndef make_env():\n    return gymnasium.make('CartPole-v1')\n"
    )
    modules = {"expensive": "scaling", "my_task": "how-to/own-environment", "my_memory": "how-to/own-memory"}
    for module, page in modules.items():
        code = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
        (in_tmp_dir / f"{module}.py").write_text(code[0])
    monkeypatch.syspath_prepend(in_tmp_dir)
    return in_tmp_dir


@pytest.mark.slow
@pytest.mark.parametrize("page", [path for path in TEXTS if commands_of(path)], ids=lambda path: path.stem)
def test_commands_run_as_written(page, folder, capsys):
    """Run the commands of a page in order; commands from earlier pages run again only if later ones need them."""
    needed = r"run_dir=|^memo sweep|^memo package|ext_objnav_small$"
    earlier = {command for path in TEXTS[: TEXTS.index(page)] for command in commands_of(path)}
    todo = [
        command
        for command in commands_of(page)
        if not why_not_run(command) and (command not in earlier or re.search(needed, command))
    ]
    if page.stem in ("README", "commands"):  # their tables list commands before the commands that they depend on
        order = ("train", "register", "evaluate", "sweep", "compare")
        todo.sort(key=lambda command: [*order, shlex.split(command)[1]].index(shlex.split(command)[1]))
    if any("study=baselines" in command for command in todo):
        assert main(["sweep", "sweeps/baselines.yaml", *small("sweep", ["sweeps/baselines.yaml"]), "n_seeds=1"]) == 0
    for command in todo:
        _, verb, *words = shlex.split(command.split("#")[0])
        words = [_stand_in(word, words, folder) for word in words]
        assert main([verb, *words, *small(verb, words)]) == 0, f"{command}: {capsys.readouterr().err[-500:]}"


def _stand_in(word, words, folder):
    """Return the value of a placeholder."""
    if word.endswith("_trial_7.yaml"):
        (file,) = (folder / "studies/ppo/experiment").glob("*.yaml")
        return f"experiment={file}"
    run = "runs/houses_run" if "split=held_out_placements" in words else "runs/NAME"
    for placeholder, value in {
        "study=NAME": "study=ppo",
        "checkpoint=...": f"checkpoint={run}/checkpoints/last.ckpt",
        "RUN": "runs/NAME",
    }.items():
        word = word.replace(placeholder, value)
    return word


def test_the_aims_are_those_of_the_benchmark_that_ships(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from from_results import AIMS, table_with_aims

    ratios = json.loads((ROOT / "results/benchmark.json").read_text())["ratios"]
    assert [ratio["name"] for ratio in ratios] == [*AIMS]
    missed = [line.split("|")[1].strip() for line in table_with_aims(ratios).splitlines() if "missed" in line]
    assert missed == ["update time at 8,192: memo_reencoding / memo"]


def test_success_in_houses_is_drawn_as_measured_with_the_colours_of_the_memories(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from from_results import plot_success

    saved = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path: saved.append(figure))
    evaluations = json.loads((ROOT / "results/ext_objnav_small.json").read_text())
    plot_success(evaluations, tmp_path / "plot.png")
    success, _ = saved[0].axes
    page = (ROOT / "docs/ext_objnav.md").read_text()
    table = re.search(r"\| Memo, mean of the seeds (.*) \|\n\| memoryless, mean of the seeds (.*) \|\n", page)
    bins = [0, 2, 4, 7, 9, 12, 14, 17, 19]  # those that end at step 40, 120, ... in the table
    for line, row, colour in zip(success.lines, table.groups(), ["#0072b2", "#7f7f7f"], strict=True):
        assert line.get_color() == colour
        assert [f"{line.get_ydata()[k]:.2f}" for k in bins] == row.strip("| ").split(" | ")


def test_pilots_of_object_navigation_are_told_as_measured():
    page = (ROOT / "docs/ext_objnav.md").read_text().rpartition("| environments | chunks |")[2].partition("\n\n")[0]
    told = [[cell.strip("* ") for cell in line.strip("|").split("|")] for line in page.splitlines()[2:]]
    measured = []
    for run in json.loads((ROOT / "results/pilots/ext_objnav_small.json").read_text())["runs"]:
        *settings, rate, frames = [override.partition("=")[2] for override in run["overrides"]]
        row = [*settings, f"{float(rate) * 1000:.1f}e-3", f"{int(frames) / 1e6:.1f} million"]
        measured.append([*row, f"{run['training_minutes']:.0f}", f"{run['success']:.2f}"])
    assert told == measured


def test_pilots_in_many_houses_are_told_as_measured():
    page = (ROOT / "docs/ext_objnav.md").read_text().rpartition("| starts from | rooms |")[2].partition("\n\n")[0]
    told = [[cell.strip("* ") for cell in line.strip("|").split("|")][1:] for line in page.splitlines()[2:]]
    measured = []
    for run in json.loads((ROOT / "results/pilots/many_houses.json").read_text())["runs"]:
        rooms = " to ".join(dict.fromkeys(map(str, run["rooms"])))
        reached = f"{run['success_first_quarter']:.2f}, {run['success_last_quarter']:.2f}"
        objects, frames = f"{run['n_types']}, {run['n_objects']}", f"{run['frames'] / 1e6:.1f} million"
        measured.append([rooms, objects, f"{run['object_range']:g} m", str(run["episode_length"]), frames, reached])
    assert told == measured


def test_the_page_of_results_is_that_of_the_claims_and_verdicts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from results_page import results_page

    page = (ROOT / "docs/results.md").read_text()
    assert page == results_page(ROOT / "results", ROOT / "docs"), "python docs/from_results.py makes it"
    for path in (ROOT / "results/claims").glob("*.json"):
        verdict = json.loads(path.read_text())
        section = page.partition(f"*{verdict['question']}*")[2].partition("## Claim")[0]
        assert f"**{verdict['verdict'][0].upper()}{verdict['verdict'][1:]}.**" in section


def test_the_leaderboard_has_every_memory_with_the_mean_of_its_runs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from leaderboard_page import leaderboard_page

    page = (ROOT / "docs/leaderboard.md").read_text()
    assert page == leaderboard_page(ROOT / "results"), "python docs/from_results.py makes it"
    section = page.partition("## Dark-Key-To-Door 5x5")[2].partition("\n## ")[0]
    for memory in ("lstm", "gru", "full_context"):
        runs = [json.loads(path.read_text()) for path in (ROOT / "results/runs").glob(f"{memory}-dark_key_to_door-s*")]
        returns = sorted(run["evaluations"]["n_trials=512"]["return_per_trial"] for run in runs)
        row = re.search(rf"^\| {memory} \| ([\d.]+) .* \| (\d) \|$", section, re.MULTILINE)
        assert float(row[1]) == pytest.approx(scipy.stats.trim_mean(returns, 0.25), abs=0.06)
        assert int(row[2]) == len(returns) == 5


def test_what_pages_say_was_measured_is_in_results():
    links = [
        (path, link) for path in TEXTS for link in re.findall(r"\]\(([^)]*results/[^)]*\.json)\)", path.read_text())
    ]
    assert len(links) >= 6
    for path, link in links:
        assert ROOT / "results" in (path.parent / link).resolve().parents, f"{path.name}: {link}"
        json.loads((path.parent / link).read_text())


def test_what_is_not_run_is_there():
    written = [command for path in TEXTS for command in commands_of(path)]
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in written), f"{pattern} is of no command"


def test_the_memory_of_the_how_to_steps_as_it_reads_rows():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/own-memory.md").read_text(), re.DOTALL)
    torch.manual_seed(0)
    names = {}
    for block in blocks:  # the class, and the code that compares its two computations
        exec(block, names)  # noqa: S102
    assert issubclass(names["Averages"], SequenceModel)


BASELINES = [name for name in group_options("baseline") if name not in ("none", "custom")]


def memory_rows(heading):
    """Return the table under a heading of the page about memories: the cells of each row, by the names in its first."""
    section = (ROOT / "docs/memories.md").read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {name: row for row in rows for name in re.findall(r"`(\w+)`", row[0])}


@pytest.mark.parametrize("name", BASELINES)
def test_the_page_of_memories_says_what_each_keeps_and_takes_over(name):
    config = compose_config("train", [f"baseline={name}"])
    memory = get_object(config.baseline.target)
    shared = accepted(memory, {key: config.model[key] for key in SHARED})
    model = memory(**shared, **accepted(memory, {key: config.baseline.get(key) for key in ("memory_budget",)}))

    uses = memory_rows("## What a baseline takes over")[name][1]
    named = set(re.findall(r"`(\w+)`", uses))
    assert set(shared) == (set(SHARED) - named if uses.startswith("all") else named)

    written = memory_rows("# Memories")[name][3:]
    span = config.env.episode_length if config.baseline.get("memory_scope") == "episode" else 1600
    kept = [model.memory_budget or model.budget_of_trial(min(n, span)) for n in (200, 1600)]
    if name == "rmt":
        kept = [model.segment_length + model.summary_length] * 2
    assert written == ["" if n is None else f"{n:,}" for n in kept]


def test_the_loops_of_the_how_to_act(in_tmp_dir):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/use-a-policy.md").read_text(), re.DOTALL)
    cartpole = ["env=gymnasium", "env.id=CartPole-v1", "logger=none", "run_dir=runs/NAME"]
    assert main(["train", *cartpole, *SMALL_TASK]) == 0
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102
    assert 8 < names["total"] <= 500
    returns = names["run_trial"](names["agent"], names["env"], n_episodes=3)
    assert len(returns) == 3
    assert min(returns) > 7


@pytest.mark.slow
def test_the_loop_of_the_how_to_runs_what_was_exported(in_tmp_dir):
    pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    page = ROOT / "docs/how-to/export.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    cartpole = ["env=gymnasium", "env.id=CartPole-v1", "logger=none", "run_dir=runs/NAME"]
    assert main(["train", *cartpole, *SMALL_TASK]) == 0
    for command in commands_of(page):
        verb, *words = shlex.split(command)[1:]
        if verb == "export" and words:
            assert main([verb, *words]) == 0
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102
    assert 8 <= names["total"] <= 500
    assert names["action"] in (0, 1)
    policy = names["policy"]
    example = {entry["name"]: np.zeros(entry["shape"], entry["dtype"]) for entry in policy["inputs"]}
    outputs = names["program"]({k: torch.from_numpy(v) for k, v in (example | names["initial_state"]()).items()})
    assert set(outputs) == set(names["names"])


def test_the_examples_of_the_public_api_run_in_order(in_tmp_dir, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/api.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)  # noqa: S102
    assert names["rollout"]["next", "success"].any()
    assert names["rollout"].shape == (5, 20)
    assert names["agent"].action_space.contains(names["action"])
    assert names["CautiousPPO"].learning_rate_at is not names["PPO"].learning_rate_at
    assert "bytes" not in capsys.readouterr().err


def test_the_signatures_of_the_public_api_are_those_of_the_code():
    from memo_lightning import load
    from memo_lightning.algorithms import Algorithm
    from memo_lightning.envs import TrialEnv
    from memo_lightning.evaluation.evaluate import evaluate
    from memo_lightning.policies import Agent
    from memo_lightning.training.train import train

    public = (load, Agent, SequenceModel, TrialEnv, Algorithm, train, evaluate)
    page = (ROOT / "docs/reference/api.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n\n```text\n(.*?)```", page, re.DOTALL | re.MULTILINE))
    assert set(sections) == {thing.__name__ for thing in public}
    for thing in public:
        for name, written in re.findall(r"^(\w+)\((.*)\)$", sections[thing.__name__], re.MULTILINE):
            function = (
                thing.__init__ if inspect.isclass(thing) and name == thing.__name__ else getattr(thing, name, thing)
            )
            parameters = [p for p in inspect.signature(function).parameters if p != "self"]
            assert re.findall(r"(\w+)(?:=[^,]*)?(?:, |$)", written.replace("*, ", "")) == parameters, f"{thing}: {name}"


def test_the_first_steps_end_with_an_agent_that_acts(folder, capsys):
    shutil.copytree("runs/NAME", "runs/first")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/get-started.md").read_text(), re.DOTALL)
    exec(block, {})  # noqa: S102
    assert capsys.readouterr().out.endswith("bytes of memory\n")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_the_tables_between_markers_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from from_results import tables, with_table

    marked = [(name, path) for path in TEXTS for name in re.findall(r"<!-- end of (.*) -->", path.read_text())]
    assert sorted(marked) == sorted((name, path) for name, path, _ in tables())
    for name, path, table in tables():
        assert table in path.read_text(), f"{path.name}: python docs/from_results.py makes it"
        assert with_table(path.read_text(), name, table) == path.read_text()


def test_drawings_are_those_of_the_script_and_show_every_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from drawings import drawn, layers

    files = dict(drawn())
    folder = ROOT / "docs/images/drawings"
    assert {path.name: path.read_text() for path in folder.iterdir()} == files, "python docs/from_results.py makes them"
    packages = {path.parent.name for path in (ROOT / "src/memo_lightning").glob("*/__init__.py")}
    assert packages <= {name for layer in layers() for name in layer}


def test_every_image_is_shown_and_made_by_one_command_or_said_to_come_of_a_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from from_results import COMPARISONS, IMAGES_OF_RUNS

    images = {path.name for path in (ROOT / "docs/images").glob("*.png")}
    made = {
        "costs.png",
        "ext_objnav_trial.png",
        "ext_objnav_success.png",
        "headline.png",
        *(f"{name}.png" for name in COMPARISONS),
    }
    assert images == made | set(IMAGES_OF_RUNS)
    text = "".join(path.read_text() for path in TEXTS)
    assert not [name for name in images if f"images/{name}" not in text]


def test_links_of_the_readme_and_for_contributors_lead_to_files():
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
            if link.startswith("http"):
                continue
            path, _, anchor = link.partition("#")
            assert (ROOT / path).exists(), f"{name}: {link}"
            if anchor:
                text = (ROOT / path).read_text()
                headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
                assert anchor in [*anchors, *re.findall(r'<a id="(.*)"></a>', text)], link


def test_links_to_other_sites_are_encrypted():
    """List the links (``pytest -s``) without following them: a test must not need the network."""
    links = {link for path in TEXTS for link in re.findall(r"\]\((https?://[^)\s]+)\)", path.read_text())}
    print("\n" + "\n".join(sorted(links)))
    assert all(link.startswith("https://") for link in links)


def test_the_yaml_of_a_study_is_a_study(tmp_path):
    from memo_lightning.sweeps.study_file import read_study

    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(block)
    spec = read_study(str(tmp_path / "example.yaml"), [])
    assert spec.settings["n_trials"] == yaml.safe_load(block)["n_trials"] == 40


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site/reference/configuration/index.html").read_text()
    for option in (ROOT / "conf").glob("*/**/*.yaml"):
        assert f"{option.parent.relative_to(ROOT / 'conf')}={option.stem}" in page
    assert "env/vision=vit" in page
    for path in (ROOT / "conf").glob("**/*.yaml"):  # every comment after a setting is there in full
        for comment in re.findall(r"^ *\w+: .* # +(.*)$", path.read_text(), re.MULTILINE):
            if path.parent.name not in ("experiment", "debug", "reproduce"):
                words = html.escape(comment[:1].upper() + comment[1:], quote=False)
                assert words in page or html.escape(comment, quote=False) in page, f"{path.name}: {comment}"
    assert "state_nbytes" in (tmp_path / "site/reference/models/index.html").read_text()
