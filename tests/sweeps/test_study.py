"""Ownership of trials, and how many trials are still needed."""

import os
import socket
import subprocess
import sys
import time

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from memo_lightning.sweeps.study import Owner, is_wanted, mark_exhausted


@pytest.fixture
def study():
    return optuna.create_study()


def add(study, state, **user_attrs):
    value = 1.0 if state is TrialState.COMPLETE else None
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params={"x": 0.5},
            distributions={"x": FloatDistribution(0, 1)},
            user_attrs=user_attrs,
        )
    )
    return study.trials[-1]._trial_id


def test_only_trials_of_dead_owners_are_orphans(study):
    owner = Owner(study)
    host, pid, started = owner.name.rsplit(":", 2)
    assert (host, int(pid)) == (socket.gethostname(), os.getpid())
    owner.beat()
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead_name = f"{host}:{dead.pid}:{started}"
    time.sleep(0.5)  # it has exited and is a zombie until someone reads its status
    reused = f"{host}:{pid}:{int(started) - 1000}"  # a process with this id that started at another time
    for name in (dead_name, reused, "elsewhere:1:1"):
        study.set_user_attr(f"beat {name}", time.time())

    running = TrialState.RUNNING
    own = add(study, running, owner=owner.name)
    lost = add(study, running, owner=owner.name)  # created by this process, which failed to run it
    add(study, running, owner="elsewhere:1:1")
    orphans = {lost, *(add(study, running, owner=name) for name in (dead_name, reused))}
    add(study, running)  # just created
    add(study, TrialState.COMPLETE, owner=dead_name)
    assert {trial._trial_id for trial in owner.orphans({own})} == orphans
    dead.wait()
    assert {trial._trial_id for trial in owner.orphans({own})} == orphans


@pytest.fixture
def wait(monkeypatch):
    """Advance the clock without waiting: ``wait(seconds)``."""
    passed = [time.monotonic()]
    monkeypatch.setattr("memo_lightning.sweeps.study.time.monotonic", lambda: passed[0])

    def wait(seconds):
        passed[0] += seconds

    return wait


def test_a_machine_that_is_silent_is_taken_for_dead_whatever_its_clock_says(study, wait):
    """Clocks of two machines may differ by hours; all that counts is whether the other machine's heartbeat changes."""
    owner, running = Owner(study), TrialState.RUNNING
    wrong_clock = time.time() - 10_000
    lives, silent = (add(study, running, owner=f"{name}:1:1") for name in ("lives", "silent"))
    study.set_user_attr("beat silent:1:1", time.time() + 10_000)
    for minute in range(4):
        study.set_user_attr("beat lives:1:1", wrong_clock + 60 * minute)
        orphans = [trial._trial_id for trial in owner.orphans(())]
        assert orphans == ([silent] if minute > 2 else []), "after more than two minutes"
        wait(60)
    assert lives not in orphans


def test_a_trial_that_never_got_an_owner_is_an_orphan_after_a_while(study, wait):
    trial = add(study, TrialState.RUNNING)
    owner = Owner(study)
    assert list(owner.orphans(())) == []
    wait(60)
    assert [orphan._trial_id for orphan in owner.orphans(())] == [trial]


def test_trials_count_unless_they_are_repeated(study):
    assert is_wanted(study, 1)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL):
        add(study, state)
    assert is_wanted(study, 5)
    assert not is_wanted(study, 4)
    add(study, TrialState.FAIL, interrupted=True)
    add(study, TrialState.FAIL, retried=True)
    assert is_wanted(study, 5)
    assert not is_wanted(study, 4)
    study.enqueue_trial({"x": 0.1})
    assert is_wanted(study, 4), "a repetition waits"


def test_nothing_new_is_wanted_once_all_has_been_tried(study):
    add(study, TrialState.COMPLETE)
    mark_exhausted(study)
    assert not is_wanted(study, 100)
    study.enqueue_trial({"x": 0.1})
    assert is_wanted(study, 100)
