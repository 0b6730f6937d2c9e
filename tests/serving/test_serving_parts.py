"""Messages, schemas, sessions and counters, tested without a server."""

import json

import msgpack
import numpy as np
import pytest
from gymnasium import spaces
from test_agent import SPACES, make_toy, save_policy

import memo_lightning
from memo_lightning.errors import UserError
from memo_lightning.serving.codec import Unreadable, decode, encode, kind_of
from memo_lightning.serving.metrics import Histogram
from memo_lightning.serving.schemas import n_numbers, openapi, space_schema
from memo_lightning.serving.server import read_token
from memo_lightning.serving.sessions import NoSession, Sessions, TooManySessions


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_messages_come_back(kind):
    message = {"observation": [[1.5, 2.0], [3.0, 4.0]], "reward": 0.25, "is_first": True, "text": "é"}
    assert decode(encode(message, kind), kind) == message


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "float64"])
def test_arrays_of_msgpack_come_back(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    packed = msgpack.packb({"o": {"dtype": dtype, "shape": [3, 4], "bytes": array.tobytes()}})
    read = decode(packed, "msgpack")["o"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"{", "json", "not valid json"),
        (b"[1]", "json", "the message is a list: must be a mapping"),
        (b"[" * 100_000, "json", "nested too deeply"),
        (b"\xc1", "msgpack", "not valid msgpack"),
        (b"\xff\xfe", "json", "not valid json"),
        ({"dtype": "object", "shape": [1], "bytes": b"12345678"}, "msgpack", "dtype='object': must be one of bool"),
        ({"dtype": "uint8", "shape": [3], "bytes": b"12"}, "msgpack", "has 2 bytes: must have 3"),
        ({"dtype": "uint8", "shape": [-1], "bytes": b""}, "msgpack", "must have a list of sizes"),
        ({"dtype": "uint8", "shape": [2**40, 2**40], "bytes": b""}, "msgpack", "has 0 bytes"),
    ],
)
def test_what_is_no_message_is_one_line(body, kind, message):
    body = msgpack.packb({"observation": body}) if isinstance(body, dict) else body
    with pytest.raises(Unreadable) as error:
        decode(body, kind)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_media_types():
    assert kind_of("application/json; charset=utf-8") == "json"
    assert kind_of("text/html, application/x-msgpack;q=0.9") == "msgpack"
    assert kind_of("text/plain") is None


def fits(schema, value):
    """Return whether a value matches a JSON Schema, for the part of JSON Schema that spaces need."""
    kind = schema["type"]
    if kind == "object":
        parts = schema["properties"]
        return set(schema["required"]) <= set(value) and all(fits(parts[name], value[name]) for name in value)
    if kind == "array":
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        within = schema["minItems"] <= len(value) <= schema["maxItems"]
        return within and all(fits(item, part) for item, part in zip(items, value, strict=True))
    low, high = schema.get("minimum", -np.inf), schema.get("maximum", np.inf)
    return isinstance(value, int if kind == "integer" else (int, float)) and low <= value <= high


@pytest.mark.parametrize("name", SPACES)
def test_schemas_describe_what_the_spaces_hold(name):
    for space in SPACES[name]:
        space.seed(0)
        schema = json.loads(json.dumps(space_schema(space)))
        for _ in range(20):
            sample = space.sample()
            held = json.loads(json.dumps(sample, default=lambda part: part.tolist()))
            assert fits(schema, held), (schema, held)
        assert n_numbers(space) == sum(np.size(leaf) for leaf in leaves(sample))


def leaves(value):
    if isinstance(value, dict):
        value = tuple(value.values())
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, tuple) else [value]


def test_the_description_is_of_this_policy(tmp_path):
    save_policy(tmp_path / "x.ckpt", make_toy("masked")[0])
    described = openapi(memo_lightning.load(tmp_path / "x.ckpt"), needs_token=True)
    schemas = described["components"]["schemas"]
    assert schemas["Observation"]["maxItems"] == 3
    assert schemas["Action"] == {"type": "integer", "minimum": 0, "maximum": 3}
    assert schemas["Step"]["properties"]["action_mask"]["maxItems"] == 4
    assert described["security"] == [{"token": []}]
    text = json.dumps(described)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas


def test_sessions_end_when_nobody_asks_for_them_and_are_no_more_than_allowed():
    now, ended = [0.0], []
    sessions = Sessions(2, 10.0, ended.append, lambda: now[0])
    first, second = sessions.add("a"), sessions.add("b")
    with pytest.raises(TooManySessions, match="max_sessions=2: all are in use"):
        sessions.add("c")
    now[0] = 8.0
    assert sessions.find(second.name) is second
    now[0] = 11.0
    third = sessions.add("c")  # replaces the first
    assert ended == [first]
    with pytest.raises(NoSession, match="unknown or expired session; begin a new one"):
        sessions.find(first.name)
    now[0] = 19.0
    second.in_flight = 1  # its answer takes a long time
    sessions.expire()
    assert sessions.find(second.name) is second
    now[0] = 30.0
    sessions.expire()
    assert ended == [first, third]
    assert (len(sessions), sessions.n_created, sessions.n_expired) == (1, 3, 2)


def test_a_histogram_counts_up():
    histogram = Histogram("x", "text", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert histogram.lines()[2:] == [
        'x_bucket{le="0.1"} 2',
        'x_bucket{le="1.0"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 7.65",
        "x_count 4",
    ]


def test_tokens_are_read_and_never_repeated(tmp_path, monkeypatch):
    secret = "a-secret-that-nobody-may-see"
    assert read_token(None) is None
    monkeypatch.setenv("MEMO_SERVE_TOKEN", secret)
    assert read_token(None) == secret
    (tmp_path / "token").write_text(f"{secret}2\n")
    assert read_token(str(tmp_path / "token")) == f"{secret}2"
    for wrong in (secret, str(tmp_path)):
        with pytest.raises(UserError, match="token: must be the path of a readable file") as error:
            read_token(wrong)
        assert wrong not in str(error.value)
    monkeypatch.setenv("MEMO_SERVE_TOKEN", "short-one")
    with pytest.raises(UserError, match="at least 16") as error:
        read_token(None)
    assert "short-one" not in str(error.value)


def test_spaces_of_several_dimensions_are_nested():
    schema = space_schema(spaces.MultiDiscrete([[2, 3], [4, 5]]))
    assert schema["items"]["items"]["type"] == "integer"
