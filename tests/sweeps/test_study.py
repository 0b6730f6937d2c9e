"""Whose trials are whose, and how many are still wanted."""

import os
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta

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
    time.sleep(0.5)  # it is over now, and a zombie as long as nobody asks for its status
    reused = f"{host}:{pid}:{int(started) - 1000}"  # a process of this id that began at another time
    study.set_user_attr("beat elsewhere:1:1", time.time())
    study.set_user_attr("beat silent:1:1", time.time() - 1000)
    for name in (dead_name, reused):
        study.set_user_attr(f"beat {name}", time.time())

    running = TrialState.RUNNING
    own = add(study, running, owner=owner.name)
    lost = add(study, running, owner=owner.name)  # made by this process, which failed before it could run it
    add(study, running, owner="elsewhere:1:1")
    orphans = {lost, *(add(study, running, owner=name) for name in (dead_name, reused, "silent:1:1"))}
    add(study, running)  # it has just been made
    add(study, TrialState.COMPLETE, owner=dead_name)
    assert {trial._trial_id for trial in owner.orphans({own})} == orphans
    dead.wait()
    assert {trial._trial_id for trial in owner.orphans({own})} == orphans


def test_a_trial_that_never_got_an_owner_is_an_orphan_after_a_while(study, monkeypatch):
    trial = add(study, TrialState.RUNNING)
    owner = Owner(study)
    assert list(owner.orphans(())) == []
    later = (datetime.now() + timedelta(seconds=60)).timestamp()
    monkeypatch.setattr("memo_lightning.sweeps.study.time.time", lambda: later)
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
