"""A server in its own process, with separate clients."""

import json
import signal
import threading
import time

import msgpack
import numpy as np
import pytest
import requests
from test_agent import SPACES
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import memo_lightning
from memo_lightning.cli.main import main
from servers import Client, serving, told_at_random

OBSERVATION = 3  # in the space "discrete with start"
pytestmark = pytest.mark.slow


def in_threads(*calls):
    """Run functions concurrently; raise what any of them raises."""
    errors = []

    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]


def test_concurrent_sessions_of_different_lengths_act_as_agents_of_their_own(policies):
    """Covers three sessions over HTTP and three over WebSocket, JSON and msgpack, sampled and most likely actions."""
    checkpoint = policies / "nested.ckpt"

    def told_to(index, n_steps):
        own, rng = memo_lightning.load(checkpoint).observation_space, np.random.default_rng(index)
        own.seed(index)
        return [told_at_random(rng, own, "nested") for _ in range(n_steps)]

    def expect(index, told, actions):
        agent = memo_lightning.load(checkpoint, seed=index)
        state = agent.initial_state()
        for step, answer in zip(told, actions, strict=True):
            action, state = agent.act(**step, state=state)
            np.testing.assert_allclose(answer, action, atol=1e-4)

    with serving(policies, "checkpoint=nested.ckpt") as server:
        checks = []

        def over_http(index, n_steps):
            def run():
                client, told = Client(server.address, seed=index), told_to(index, n_steps)
                answers = [client.act(**step) for step in told]
                checks.append((index, told, [answer["action"] for answer in answers]))
                assert client.http.delete(client.url, timeout=30).status_code == 204

            return run

        def over_websocket(index, n_steps, packed):
            def run():
                told, actions = told_to(index, n_steps), []
                with connect(f"ws://127.0.0.1:{server.port}/ws?seed={index}") as socket:
                    assert json.loads(socket.recv())["step"] == 0
                    for step in told:
                        socket.send(msgpack.packb(step) if packed else json.dumps(step))
                        answer = msgpack.unpackb(socket.recv()) if packed else json.loads(socket.recv())
                        actions.append(answer["action"])
                checks.append((index, told, actions))

            return run

        in_threads(
            *(over_http(index, n_steps) for index, n_steps in ((1, 61), (2, 23), (3, 90))),
            *(over_websocket(index, n_steps, index % 2) for index, n_steps in ((4, 45), (5, 120), (6, 77))),
        )
        assert len(checks) == 6
        for check in checks:
            expect(*check)
        metrics = server.metrics()
        assert metrics["memo_step_seconds_count"] == 61 + 23 + 90 + 45 + 120 + 77
        assert metrics["memo_batch_steps_count"] < metrics["memo_step_seconds_count"], "some were answered together"
        deadline = time.monotonic() + 10
        while server.metrics()["memo_memory_bytes"] and time.monotonic() < deadline:
            time.sleep(0.05)
        metrics = server.metrics()
        assert (metrics["memo_sessions"], metrics["memo_memory_bytes"]) == (0, 0), "all have ended"
        assert server.stop() == 0
    assert server.said.endswith("stopped\n")


def test_images_come_as_arrays_of_msgpack_or_as_lists(policies):
    space, _ = SPACES["image, channels first"]
    space.seed(0)
    with serving(policies, "checkpoint=image.ckpt", "deterministic=true") as server:
        agent = memo_lightning.load(policies / "image.ckpt")
        state = agent.initial_state()
        packed, listed = Client(server.address), Client(server.address)
        for _ in range(6):
            image = space.sample()
            action, state = agent.act(image, state, deterministic=True)
            array = {"dtype": "uint8", "shape": [*image.shape], "bytes": image.tobytes()}
            body = msgpack.packb({"observation": array})
            answer = requests.post(
                f"{packed.url}/act", body, headers={"content-type": "application/msgpack"}, timeout=60
            )
            assert answer.headers["content-type"] == "application/msgpack"
            assert msgpack.unpackb(answer.content)["action"] == action.tolist()
            assert listed.act(image.tolist())["action"] == action.tolist()
        wrong = listed.post(observation=image.tolist()[:2])
        assert (wrong.status_code, wrong.json()) == (
            422,
            {"error": "observation 'observation' has shape (2, 10, 12); its space says (3, 10, 12)"},
        )
        headers = {"content-type": "application/json", "accept": "application/msgpack"}
        answer = requests.post(f"{server.address}/sessions", "{}", headers=headers, timeout=30)
        assert msgpack.unpackb(answer.content)["step"] == 0


def test_masks_values_and_probabilities(policies):
    with serving(policies, "checkpoint=masked.ckpt") as server:
        client = Client(server.address, seed=0)
        for allowed in range(4):
            mask = [index == allowed for index in range(4)]
            answer = client.act([0.1, 0.2, 0.3], action_mask=mask, details=True)
            assert answer["action"] == allowed
            assert answer["probabilities"] == [float(index == allowed) for index in range(4)]
            assert isinstance(answer["value"], float)
        assert client.post(observation=[0.1, 0.2, 0.3]).json()["error"].startswith("action_mask: missing")
        assert client.act([0.1, 0.2, 0.3], action_mask=[True] * 4).keys() == {"action", "step"}


def test_a_bad_observation_hurts_no_other_session(server):
    good = [Client(server.address, seed=3, deterministic=True) for _ in range(4)]
    bad = Client(server.address)
    bad.act(OBSERVATION)
    answers = [[] for _ in good]

    def act(index):
        def run():
            for _ in range(30):
                answers[index].append(good[index].act(OBSERVATION, reward=0.5)["action"])

        return run

    def spoil():
        for t in range(30):
            refused = bad.post(observation=OBSERVATION if t % 2 else 7, reward=0.0 if t % 2 == 0 else 3.4e38)
            assert refused.status_code == 422, refused.text
            assert "\n" not in refused.json()["error"]

    in_threads(*(act(index) for index in range(4)), spoil)
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert bad.act(OBSERVATION)["step"] == 2, "what was refused has not been a step"


def test_mistakes_are_one_line(server):
    client, post = Client(server.address), requests.post
    packed, told = (
        {"content-type": "application/msgpack", "accept": "application/json"},
        {"content-type": "application/json"},
    )
    url, new = f"{client.url}/act", f"{server.address}/sessions"
    for answer, status, message in (
        (post(f"{new}/other/act", json={}, timeout=30), 404, "unknown or expired session; begin a new one"),
        (requests.delete(f"{new}/other", timeout=30), 404, "unknown or expired session"),
        (post(f"{new}/other/reset", timeout=30), 404, "unknown or expired session"),
        (post(url, "{", headers=told, timeout=30), 400, "the message is not valid json"),
        (post(url, b"\xc1", headers=packed, timeout=30), 400, "the message is not valid msgpack"),
        (post(url, "observation=3", timeout=30), 415, "must be application/json or application/msgpack"),
        (post(url, json={"obs": 3}, timeout=30), 422, "unknown field 'obs': must be one of observation"),
        (post(url, "x" * 100_000, headers=told, timeout=30), 413, "the body is larger than"),
        (post(new, json={"seed": -1}, timeout=30), 422, "seed=-1: must be a whole number from 0"),
        (post(new, json={"deterministic": 1}, timeout=30), 422, "deterministic=1: must be true or false"),
        (requests.get(f"{server.address}/act", timeout=30), 404, "GET /act: not found; the paths are /sessions"),
        (requests.get(new, timeout=30), 405, "method not allowed"),
        (post(new, headers={"origin": "http://other.example"}, timeout=30), 403, "origin=http://other.example"),
        (post(new, headers={"host": "other.example"}, timeout=30), 403, "host=other.example: must be 127.0.0.1"),
    ):
        assert answer.status_code == status, answer.text
        assert message in answer.json()["error"]
        assert "\n" not in answer.json()["error"]


def test_resets_and_first_steps_begin_a_trial(server):
    client = Client(server.address, seed=1, deterministic=True)
    steps = [client.act(OBSERVATION + t % 3, reward=t)["action"] for t in range(12)]
    assert client.http.post(f"{client.url}/reset", timeout=30).json()["step"] == 0
    answers = [client.act(OBSERVATION + t % 3, reward=t) for t in range(12)]
    assert [answer["action"] for answer in answers] == steps
    assert [answer["step"] for answer in answers] == [*range(1, 13)]
    again = [client.act(OBSERVATION + t % 3, reward=t, is_first=t == 0)["action"] for t in range(12)]
    assert again == steps


def test_health_metrics_and_description(server):
    health = requests.get(f"{server.address}/health", timeout=30).json()
    assert (health["status"], health["memory"], health["frames"]) == ("ok", "MemoTransformer", 640)
    described = requests.get(f"{server.address}/openapi.json", timeout=30).json()
    assert described["components"]["schemas"]["Observation"] == {"type": "integer", "minimum": 2, "maximum": 6}
    client = Client(server.address)
    client.act(OBSERVATION)
    text = requests.get(f"{server.address}/metrics", timeout=30).text
    assert 'memo_requests_total{kind="act",status="200"}' in text
    assert "# TYPE memo_step_seconds histogram" in text
    assert server.metrics()["process_resident_memory_bytes"] > 1e8


def test_a_websocket_may_share_a_session_and_survives_what_does_not_fit(server):
    client = Client(server.address, seed=1)
    client.act(OBSERVATION)
    address = f"ws://127.0.0.1:{server.port}/ws"
    with connect(f"{address}?session={client.name}") as socket:
        assert json.loads(socket.recv())["step"] == 1
        for message, status in (("{", 400), ('{"observation": 7}', 422), ('{"reset": 1}', 422), ("[]", 400)):
            socket.send(message)
            assert json.loads(socket.recv())["status"] == status
        socket.send(json.dumps({"observation": OBSERVATION}))
        assert json.loads(socket.recv())["step"] == 2
        socket.send('{"reset": true}')
        assert json.loads(socket.recv())["step"] == 0
    assert client.act(OBSERVATION)["step"] == 1, "it outlives the connection"
    client.http.delete(client.url, timeout=30)
    with connect(f"{address}?session={client.name}") as socket:
        assert json.loads(socket.recv()) == {"error": "unknown or expired session; begin a new one", "status": 404}
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd.code == 4404
    with pytest.raises(InvalidStatus) as refused:
        connect(address, origin="http://other.example")
    assert refused.value.response.status_code == 403


def test_a_second_server_on_the_port_is_one_line(server, policies, monkeypatch, capsys):
    monkeypatch.chdir(policies)
    assert main(["serve", "checkpoint=discrete.ckpt", f"port={server.port}"]) == 2
    assert capsys.readouterr().err == f"memo: port={server.port}: in use; must be a free port, or port=0 for any\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint=null", "checkpoint=null: must be the folder of a run"),
        ("checkpoint=missing.ckpt", "checkpoint=missing.ckpt: no such file"),
        ("port=70000", "port=70000: must be between 0 and 65535"),
        (
            "host=0.0.0.0",
            "host=0.0.0.0: other machines can reach it, so a token is required: export MEMO_SERVE_TOKEN=$(python3",
        ),
        ("host=203.0.113.7", "host=203.0.113.7: must be an address of this machine"),
        ("host=no.such.name.invalid", "host=no.such.name.invalid: must be an address of this machine"),
        ("token=secret-secret-secret", "token: must be the path of a readable file"),
        ("max_sessions=0", "max_sessions=0: must be at least 1"),
        ("idle_seconds=0", "idle_seconds=0: must be greater than 0"),
        ("batch_wait_ms=-1", "batch_wait_ms=-1: must be between 0 and 1000"),
        ("memory_budget=3", "memory_budget=3: must be at least 7"),
        ("device=abacus", "device=abacus: must be cpu or cuda"),
        ("prot=1", "unknown override 'prot'"),
    ],
)
def test_mistakes_in_the_command_are_one_line(override, message, policies, monkeypatch, capsys):
    monkeypatch.chdir(policies)
    assert main(["serve", "checkpoint=discrete.ckpt", "port=0", override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert "secret-secret" not in error


def test_limits_idle_sessions_and_a_restart(policies):
    budget = "memory_budget=9"
    with serving(policies, "checkpoint=discrete.ckpt", "max_sessions=2", "idle_seconds=2", budget) as server:
        first, second = Client(server.address), Client(server.address)
        refused = requests.post(f"{server.address}/sessions", timeout=30)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "max_sessions=2: all are in use" in refused.json()["error"]
        with connect(f"ws://127.0.0.1:{server.port}/ws") as socket:
            assert json.loads(socket.recv())["status"] == 503
        assert requests.get(f"{server.address}/health", timeout=30).json()["memory_budget"] == 9
        second.http.delete(second.url, timeout=30)
        with connect(f"ws://127.0.0.1:{server.port}/ws") as socket:
            json.loads(socket.recv())
            end = time.monotonic() + 4
            while time.monotonic() < end:
                first.act(OBSERVATION)  # still in use, and continues
                time.sleep(0.2)
            assert first.act(OBSERVATION)["step"] > 10
            socket.send(json.dumps({"observation": OBSERVATION}))
            assert json.loads(socket.recv()) == {"error": "unknown or expired session; begin a new one", "status": 404}
        time.sleep(2.5)
        gone = first.post(observation=OBSERVATION)
        assert (gone.status_code, gone.json()) == (404, {"error": "unknown or expired session; begin a new one"})
        metrics = server.metrics()
        assert (metrics["memo_sessions"], metrics["memo_sessions_expired_total"]) == (0, 2)
        old = Client(server.address)
        server.stop(signal.SIGKILL)
        with serving(policies, "checkpoint=discrete.ckpt", f"port={server.port}"):
            gone = requests.post(f"{old.url}/act", json={"observation": OBSERVATION}, timeout=30)
            assert (gone.status_code, gone.json()) == (404, {"error": "unknown or expired session; begin a new one"})
            assert Client(server.address).act(OBSERVATION)["step"] == 1


def test_a_token_is_needed_where_others_can_reach_it(policies):
    secret = "correct-horse-battery"
    with serving(policies, "checkpoint=discrete.ckpt", "host=0.0.0.0", MEMO_SERVE_TOKEN=secret) as server:
        address, right = f"http://127.0.0.1:{server.port}", {"authorization": f"Bearer {secret}"}
        assert requests.get(f"{address}/health", timeout=30).status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer é".encode("latin-1")}):
            answer = requests.post(f"{address}/sessions", headers=headers, timeout=30)
            assert answer.status_code == 401
            assert "the token is missing or wrong" in answer.json()["error"]
            assert requests.get(f"{address}/metrics", headers=headers, timeout=30).status_code == 401
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{server.port}/ws")
        assert refused.value.response.status_code == 401
        answer = requests.post(f"{address}/sessions", headers=right, timeout=30)
        assert answer.status_code == 201
        with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=right) as socket:
            assert json.loads(socket.recv())["step"] == 0
        assert server.stop() == 0
    assert secret not in server.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_had_come_be_answered(number, policies):
    """Steps wait one second to be answered together, and the signal arrives meanwhile."""
    with serving(policies, "checkpoint=discrete.ckpt", "batch_wait_ms=1000") as server:
        clients, answers = [Client(server.address) for _ in range(5)], []
        waiting = [
            threading.Thread(target=lambda client=client: answers.append(client.post(observation=OBSERVATION)))
            for client in clients[:4]
        ]
        for thread in waiting:
            thread.start()
        while server.metrics()["memo_pending_steps"] < 4:
            time.sleep(0.01)
        server.process.send_signal(number)
        deadline = time.monotonic() + 10
        while requests.get(f"{server.address}/health", timeout=30).status_code != 503 and time.monotonic() < deadline:
            time.sleep(0.01)
        for refused in (
            clients[4].post(observation=OBSERVATION),
            requests.post(f"{server.address}/sessions", timeout=30),
        ):
            assert refused.status_code == 503
            assert refused.json()["error"].startswith("the server is stopping")
        for thread in waiting:
            thread.join(30)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert [answer.json()["step"] for answer in answers] == [1] * 4
        assert server.wait() == 0
    assert "Traceback" not in server.said
