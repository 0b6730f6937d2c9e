"""A study on a real PostgreSQL server: workers as on two machines, and a server that dies during a trial."""

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from studies import TINY, begin, finish, load, start_sweep, wait_for, write_study

from memo_lightning.cli.main import main

_BINARIES = next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), None)
_BINARIES = _BINARIES or (os.path.dirname(shutil.which("initdb")) if shutil.which("initdb") else None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_BINARIES is None, reason="no PostgreSQL server here (Debian: apt-get install postgresql)"),
]


class Server:
    """A PostgreSQL server for this test, on a free port of the loopback address."""

    def __init__(self, folder):
        self._data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://memo@127.0.0.1:{self.port}/postgres"
        # PostgreSQL refuses to run as root.
        self._user = {"user": "postgres"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "--auth=trust", "--username=memo", "-D", str(self._data))

    def start(self):
        command = [f"{_BINARIES}/postgres", "-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._data, **self._user
        )
        ready = [f"{_BINARIES}/pg_isready", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(120):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.5)
        raise AssertionError("the server does not start")

    def kill(self):
        """Kill the server as a crash would; its children exit when they notice."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _run(self, program, *arguments):
        command = [f"{_BINARIES}/{program}", *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._data.parent, **self._user)


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory() as folder:  # readable by the server's user, unlike pytest's folders
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


def test_two_processes_share_a_study_and_a_server_that_dies_loses_nothing(server, in_tmp_dir):
    """The two processes use separate folders, like two machines, and share only the server."""
    path = write_study(
        in_tmp_dir / "shared.yaml",
        train=[*TINY, "logger=none"],
        pruner={"_target_": "optuna.pruners.NopPruner"},
        prune_every=320,
        n_trials=3,
    )
    storage = f"storage={server.url}"
    begin(in_tmp_dir, path, storage)
    statuses = []
    here = threading.Thread(target=lambda: statuses.append(main(["sweep", str(path), storage])), daemon=True)
    other = start_sweep(in_tmp_dir, str(path), storage, "run_dir=studies/second")
    try:
        wait_for(other, "starts")
        here.start()
        study = load(in_tmp_dir, "shared", server.url)  # load once: each storage keeps connections open, which count
        while len({trial.user_attrs.get("owner") for trial in study.trials}) < 2:
            time.sleep(0.2)
        before = {trial.number: trial for trial in study.trials if trial.state.is_finished()}
        server.kill()
        wait_for(other, "storage cannot be reached")
        server.start()
        finish(other)
        here.join(300)
    finally:
        other.kill()
    assert statuses == [0]
    study = load(in_tmp_dir, "shared", server.url)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    # Two processes that ask for the last trial at the same moment may both get one.
    assert len(complete) in (3, 4)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert all(study.trials[number] == trial for number, trial in before.items())
    assert len({trial.user_attrs["owner"] for trial in complete}) == 2, "both did their part"
    assert len({tuple(trial.params.values()) for trial in complete}) == len(complete)
