"""The next commands that a command suggests can be pasted into a shell, whatever the paths and names."""

import os
import re
import shlex
import signal

import lightning
import pytest

from memo_lightning.cli.main import main
from tiny import FEW_UPDATES, TINY_TRAINING

AWKWARD = "my run's =#1, é"
SMALL = {
    "train": [*TINY_TRAINING, *FEW_UPDATES, "total_frames=640", "collector.n_envs=8"],
    "evaluate": ["n_trials=4", "n_envs=4"],
    "benchmark": ["measures=[acting]"],
}


def suggested(text):
    """Return every command in the ``next:`` lines of an output, split as a shell would."""
    found = re.search(r"^next: (.*(?:\n {6}\S.*)*)", text, re.MULTILINE)
    assert found, text
    lines = [line.strip() for line in found[1].splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def run(in_tmp_dir, capsys, monkeypatch):
    """Run a command and return those that it suggests; ``memo ui`` stops before the server starts."""
    monkeypatch.setattr(os, "execv", lambda *_: None)

    def run_and_read(*arguments, status=0):
        assert main(list(arguments)) == status, "".join(capsys.readouterr())
        output = capsys.readouterr()
        return suggested(output.out + output.err)

    return run_and_read


def follow(commands, run_dir):
    """Run suggested commands at a small size."""
    for program, verb, *words in commands:
        assert program == "memo"
        small = SMALL.get(verb, [])
        taken = any(word.startswith("run_dir=") for word in words)
        small = [*small, f"run_dir={run_dir}-{verb}"] if verb in ("train", "evaluate") and not taken else small
        resumes = any(word.startswith("resume=") for word in words)
        assert main([verb, *words, *([] if resumes else small)]) == 0, (verb, words)


def test_of_training_evaluation_and_comparison(run, in_tmp_dir):
    arguments = ["train", *SMALL["train"], f"run_dir={AWKWARD}", f"logger.tracking_uri=sqlite:///{AWKWARD}.db"]
    evaluate, ui = run(*arguments)
    assert evaluate == ["memo", "evaluate", f"checkpoint={AWKWARD}"]
    assert ui[:2] == ["memo", "ui"]
    follow([ui], "ui")
    *again, compare = run(*evaluate[1:], *SMALL["evaluate"])
    follow([compare], "compare")
    assert [words[-1] for words in again] == ["render=true", "trial_multiplier=8"]
    follow(again, "again")
    registered = run("register", f"run_dir={AWKWARD}", "name=my model")
    follow(registered, "registered")
    compared = run("compare", f"tracking_uri=sqlite:///{AWKWARD}.db")
    follow(compared, "compared")


def test_of_a_run_that_holds_one_already(run, in_tmp_dir, capsys):
    run("train", *SMALL["train"], "logger=none", f"run_dir={AWKWARD}")
    assert main(["train", *SMALL["train"], "logger=none", f"run_dir={AWKWARD}"]) == 2
    (resume,) = re.findall(r"resume it with (.*), or choose another folder", capsys.readouterr().err)
    assert main(["train", *shlex.split(resume), "total_frames=960"]) == 0


class Interrupt(lightning.Callback):
    """Presses Ctrl-C after the second rollout."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.rollouts_done == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c_counts():
    """Make this process react to Ctrl-C, which processes started in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_counts")
def test_of_a_run_that_was_interrupted(run, in_tmp_dir):
    longer = ["total_frames=32000", f"+callbacks.interrupt._target_={__name__}.Interrupt"]
    (resume,) = run("train", *TINY_TRAINING, *longer, "logger=none", f"run_dir={AWKWARD}", status=130)
    assert resume == ["memo", "train", f"resume={AWKWARD}"]
    assert main([*resume[1:], "total_frames=1"]) == 0, "it has only its report to make"


def test_of_checking_an_environment(run):
    tags = "logger.tags={my note: first}"
    (training,) = run("check-env", *SMALL["train"], tags, "logger.experiment_name=é 'x'")
    assert training[-2:] == [tags, "logger.experiment_name=é 'x'"]
    follow([training], "checked")


def test_of_a_study(run, in_tmp_dir):
    (in_tmp_dir / "study.yaml").write_text(
        "train: [env=dark_key_to_door]\nspace: {algorithm.gamma: {type: categorical, choices: [0.9, 0.95]}}\n"
    )
    small = [*TINY_TRAINING, "total_frames=320", "n_trials=1", f"run_dir={AWKWARD}", f"name={AWKWARD}"]
    train, compare, ui = run("sweep", "study.yaml", *small)
    assert train[2].endswith(".yaml")
    follow([train, compare, ui], "best")


def test_of_a_benchmark(run, in_tmp_dir):
    sizes = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.d_ff=16", "model.segment_length=8"]
    small = ["memories=[memo]", "context_lengths=[16]", "update_rows=1", "acting_rows=1", "input_sets=1", *sizes]
    small += ["model.summary_length=2", "staggered=[]", "measures=[acting]", f"run_dir={AWKWARD}"]
    more, training = run("benchmark", *small)
    follow([more, training], "benchmark")


def test_of_the_doctor(run):
    follow(run("doctor"), "doctor")
