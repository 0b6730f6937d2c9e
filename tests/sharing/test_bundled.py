"""The bundled policies: they load by name, and score what they state."""

import json
import math

import pytest

import memo_lightning
from memo_lightning.cli.main import main
from memo_lightning.errors import UserError
from memo_lightning.policies.loading import PRETRAINED, bundled_policies
from memo_lightning.policies.package import EVALUATION, read_package

MEGABYTE = 1_000_000


def test_they_are_small():
    sizes = {name: sum(path.stat().st_size for path in (PRETRAINED / name).iterdir()) for name in bundled_policies()}
    assert "dark-key-to-door" in sizes
    assert max(sizes.values()) <= MEGABYTE
    assert sum(sizes.values()) <= 10 * MEGABYTE


def test_a_wrong_name_lists_them(in_tmp_dir):
    forms = r"must be the folder of a run, a checkpoint, the folder of a package, hf:OWNER/NAME or models:/NAME/VERSION"
    with pytest.raises(UserError, match=rf"checkpoint=dark-kee: no such file; {forms}, or .*: dark-key-to-door"):
        memo_lightning.load("dark-kee")


@pytest.mark.parametrize("name", bundled_policies())
def test_it_scores_what_it_states_on_tasks_drawn_with_another_seed(name, in_tmp_dir):
    stated = json.loads((PRETRAINED / name / EVALUATION).read_text())
    assert stated["split"] == "held_out"
    n_trials = 192
    assert main(["evaluate", f"checkpoint={name}", f"n_trials={n_trials}", "seed=1"]) == 0
    found = json.loads((in_tmp_dir / f"runs/{name}/evaluation/evaluation.json").read_text())
    low, high = stated["return_per_trial_interval"]
    standard_error = (high - low) / (2 * 1.96) * math.sqrt(1 + stated["n_trials"] / n_trials)
    assert found["return_per_trial"] == pytest.approx(stated["return_per_trial"], abs=4 * standard_error)


@pytest.mark.parametrize("name", bundled_policies())
def test_it_says_nothing_of_the_machine_that_trained_it(name):
    config = read_package(PRETRAINED / name)["config"]
    assert not [value for value in json.dumps(config).split('"') if value.startswith(("/", "~"))]
