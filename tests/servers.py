"""Servers in their own processes, and clients."""

import contextlib
import signal
import subprocess
import threading

import numpy as np
import requests

from started import end, read_until, start


class Server:
    """A running ``memo serve``."""

    def __init__(self, folder, *overrides, **variables):
        words = ["memo_lightning.cli.main", "serve", "port=0", *overrides]
        self.process = start(words, folder, **variables)
        self.said = read_until(self.process, " until Ctrl-C")
        self.address = self.said.split(" at ")[-1].split()[0]
        self.port = int(self.address.rpartition(":")[2])
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        self.said += self.process.stdout.read()

    def stop(self, number=signal.SIGTERM):
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            status = None
        end(self.process)
        self._reader.join()
        return status

    def metrics(self, **headers):
        """Return metrics without labels, by name."""
        lines = requests.get(f"{self.address}/metrics", headers=headers, timeout=30).text.splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs if "{" not in name}


class Client:
    """One session, over HTTP."""

    def __init__(self, address, **settings):
        self.http, self.address = requests.Session(), address
        answer = self.http.post(f"{address}/sessions", json=settings, timeout=60)
        assert answer.status_code == 201, answer.text
        self.name = answer.json()["session"]
        self.url = f"{address}/sessions/{self.name}"

    def post(self, **told):
        return self.http.post(f"{self.url}/act", json=told, timeout=60)

    def act(self, observation, **told):
        answer = self.post(observation=observation, **told)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def serving(folder, *overrides, **variables):
    server = Server(folder, *overrides, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)
        server.wait()


def plain(observation):
    """Return an observation in JSON form."""
    if isinstance(observation, dict):
        return {key: plain(part) for key, part in observation.items()}
    if isinstance(observation, tuple):
        return [plain(part) for part in observation]
    return observation.tolist() if isinstance(observation, np.ndarray | np.generic) else observation


def told_at_random(rng, space, name):
    told = {
        "observation": plain(space.sample()),
        "reward": float(rng.normal()),
        "episode_end": bool(rng.random() < 0.2),
        "is_first": bool(rng.random() < 0.04),
        "deterministic": bool(rng.random() < 0.5),
    }
    if name == "masked":
        told["action_mask"] = [True, *(rng.random(3) < 0.5).tolist()]
    return told
