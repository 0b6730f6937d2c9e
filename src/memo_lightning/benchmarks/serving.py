"""A load test of ``memo serve``: ``python -m memo_lightning.benchmarks.serving [--out FILE]``.

The server runs in its own process, with one thread for the model. The clients are coroutines in this process, which
shares the machine's cores: on two cores, the results describe server and clients together.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import torch
from omegaconf import OmegaConf
from websockets.asyncio.client import ClientConnection, connect

from memo_lightning.benchmarks.script import parser, report
from memo_lightning.config import compose_config
from memo_lightning.policies import Agent
from memo_lightning.policies.checkpoint import FORMAT, FORMAT_KEY
from memo_lightning.policies.loading import load
from memo_lightning.serving.actor import BatchedActor
from memo_lightning.training.parts import build_parts

N_SESSIONS = 200
TRIAL_LENGTH = 200
N_SAMPLES = 20  # samples of the server's memory, spread over the steps


@dataclass(frozen=True)
class Server:
    """A running server and its process."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has used."""
        times = self.process.cpu_times()
        return times.user + times.system


Act = Callable[[dict[str, Any]], Awaitable[Any]]


def write_checkpoint(path: Path) -> None:
    """Write a checkpoint of the untrained policy of ``memo train``: Memo for Dark-Key-To-Door 5x5."""
    config = compose_config("train", ["logger=none"])
    parts = build_parts(config)
    checkpoint = {
        FORMAT_KEY: FORMAT,
        "rollouts_done": 0,
        "config": OmegaConf.to_container(config, resolve=True),
        "frames": 0,
        "mlflow_run_id": None,
        "policy_spec": parts.spec.as_plain(),
        "state_dict": {f"policy.{name}": value for name, value in parts.policy.state_dict().items()},
    }
    torch.save(checkpoint, path)


@contextmanager
def server(checkpoint: Path, *overrides: str) -> Iterator[Server]:
    """Serve a checkpoint for the duration of the context."""
    command = [sys.executable, "-m", "memo_lightning.cli.main", "serve", f"checkpoint={checkpoint}", "port=0"]
    process = subprocess.Popen([*command, *overrides], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield Server(int(line.split(" until ")[0].rpartition(":")[2]), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


class Http:
    """A persistent HTTP connection."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._port, self._reader, self._writer = port, reader, writer

    @staticmethod
    async def open(port: int) -> Http:
        """Connect."""
        return Http(port, *await asyncio.open_connection("127.0.0.1", port))

    async def request(self, method: str, path: str, message: Any = None) -> bytes:
        """Send a request and return the body of the response.

        Raises:
            RuntimeError: if the response is an error.
        """
        body = b"" if message is None else json.dumps(message).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-length: {len(body)}\r\n"
        self._writer.write(f"{head}content-type: application/json\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        content = await self._reader.readexactly(length)
        if answer.split()[1] not in (b"200", b"201"):
            raise RuntimeError(content.decode())
        return content

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


async def http_session(port: int) -> tuple[Act, Callable[[], Awaitable[None]]]:
    """Open a session over HTTP and JSON; return a function that acts and one that ends it."""
    connection = await Http.open(port)
    name = json.loads(await connection.request("POST", "/sessions"))["session"]

    async def act(message: dict[str, Any]) -> Any:
        return json.loads(await connection.request("POST", f"/sessions/{name}/act", message))["action"]

    async def end() -> None:
        connection.close()

    return act, end


async def websocket_session(port: int) -> tuple[Act, Callable[[], Awaitable[None]]]:
    """Open a session over WebSocket and msgpack; return a function that acts and one that ends it."""
    socket: ClientConnection = await connect(f"ws://127.0.0.1:{port}/ws", compression=None)
    await socket.recv()

    async def act(message: dict[str, Any]) -> Any:
        await socket.send(msgpack.packb(message))
        return msgpack.unpackb(await socket.recv())["action"]

    return act, socket.close


SESSIONS = {"http_json": http_session, "websocket_msgpack": websocket_session}


async def metrics(port: int) -> dict[str, float]:
    """Return the server's unlabelled metrics, by name."""
    connection = await Http.open(port)
    text = (await connection.request("GET", "/metrics")).decode()
    connection.close()
    pairs = [line.split() for line in text.splitlines() if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


async def load_test(
    served: Server, kind: str, n_sessions: int, n_steps: int, observations: np.ndarray
) -> dict[str, Any]:
    """Run sessions that act as fast as the server answers, with trials that begin at different steps.

    Args:
        served: the server.
        kind: the protocol, a key of ``SESSIONS``.
        n_sessions: number of concurrent sessions.
        n_steps: total steps of all sessions.
        observations: float32 ``[n, D]``, from which sessions take theirs.
    """
    port = served.port
    opened = [await SESSIONS[kind](port) for _ in range(n_sessions)]
    seconds: list[float] = []
    samples: list[dict[str, float]] = []
    each = n_steps // n_sessions

    async def play(index: int, act: Act) -> None:
        for t in range(each):
            message = {"observation": observations[(index + 7 * t) % len(observations)].tolist(), "reward": 0.0}
            if (t + index) % TRIAL_LENGTH == 0:
                message["is_first"] = True
            start = time.perf_counter()
            await act(message)
            seconds.append(time.perf_counter() - start)
            if len(seconds) % (n_steps // N_SAMPLES) == 0:
                held = await metrics(port)
                named = {"resident_mib": "process_resident_memory_bytes", "remembered_mib": "memo_memory_bytes"}
                sizes = {name: round(held[key] / 2**20, 1) for name, key in named.items()}
                samples.append({"steps": len(seconds), **sizes})

    before, start, busy = await metrics(port), time.perf_counter(), served.cpu_seconds()
    await asyncio.gather(*(play(index, act) for index, (act, _) in enumerate(opened)))
    wall, busy = time.perf_counter() - start, served.cpu_seconds() - busy
    after = await metrics(port)
    for _, end in opened:
        await end()
    n_calls = after["memo_batch_steps_count"] - before["memo_batch_steps_count"]
    call_seconds = after["memo_call_seconds_sum"] - before["memo_call_seconds_sum"]
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "kind": kind,
        "sessions": n_sessions,
        "steps": len(seconds),
        "p50_ms": round(1000 * p50, 2),
        "p99_ms": round(1000 * p99, 2),
        "steps_per_second": round(len(seconds) / wall),
        "server_cpu_us_per_step": round(1e6 * busy / len(seconds)),
        "steps_per_call": round(len(seconds) / n_calls, 1),
        "call_ms": round(1000 * call_seconds / n_calls, 2),
        "memory": samples,
    }


def steps_per_second_of_the_model(agent: Agent, observations: np.ndarray, n_calls: int = 100) -> int:
    """Return the model's steps per second with all sessions in one batch, without a server."""
    actor = BatchedActor(agent)
    players = [actor.player(None, False) for _ in range(N_SESSIONS)]
    start = time.perf_counter()
    for t in range(n_calls):
        told = {"observation": observations[t % len(observations)].tolist(), "reward": 0.0}
        actor.act(players, [actor.read(told, player) for player in players])
    return round(n_calls * N_SESSIONS / (time.perf_counter() - start))


async def with_idle_sessions(
    served: Server, observations: np.ndarray, n_rounds: int = 4, n_steps: int = 500
) -> list[dict[str, Any]]:
    """Measure one session, alternately alone and next to idle sessions that hold a memory."""
    measured: dict[int, list[dict[str, Any]]] = {0: [], N_SESSIONS: []}
    for _ in range(n_rounds):
        measured[0].append(await load_test(served, "websocket_msgpack", 1, n_steps, observations))
        idle = [await websocket_session(served.port) for _ in range(N_SESSIONS)]
        for _ in range(50):
            await asyncio.gather(*(act({"observation": observations[0].tolist()}) for act, _ in idle))
        measured[N_SESSIONS].append(await load_test(served, "websocket_msgpack", 1, n_steps, observations))
        for _, end in idle:
            await end()
    names = ("p50_ms", "p99_ms", "call_ms", "server_cpu_us_per_step")
    return [
        {"idle_sessions": n, "rounds": [{name: held[name] for name in names} for held in rounds]}
        for n, rounds in measured.items()
    ]


def main(arguments: Sequence[str]) -> None:
    """Measure, print the results, and write them to ``--out`` if it is given."""
    out = parser("serving", __doc__).parse_args(arguments).out
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "policy.ckpt"
        write_checkpoint(checkpoint)
        agent = load(checkpoint)
        space = agent.observation_space
        space.seed(0)
        observations = np.stack([space.sample() for _ in range(64)])
        results: dict[str, Any] = {
            "policy": "Memo on Dark-Key-To-Door 5x5, untrained",
            "processors": os.cpu_count(),
            "machine": platform.processor() or platform.machine(),
            "niceness": os.nice(0),
            "load_before": round(os.getloadavg()[0], 2),
            "model_alone_steps_per_second": steps_per_second_of_the_model(agent, observations),
        }
        with server(checkpoint) as served:
            results["idle"] = asyncio.run(with_idle_sessions(served, observations))
        loads = (("websocket_msgpack", 100_000), ("http_json", 50_000))
        results["load"] = []
        for kind, n_steps in loads:
            with server(checkpoint) as served:
                results["load"].append(asyncio.run(load_test(served, kind, N_SESSIONS, n_steps, observations)))
            print(json.dumps(results["load"][-1]), flush=True)
    results["load_after"] = round(os.getloadavg()[0], 2)
    report(results, out)


if __name__ == "__main__":
    main(sys.argv[1:])
