"""The OpenAPI description of a server, with the observations and actions of its policy."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from memo_lightning.policies import Agent
from memo_lightning.serving.sessions import EXPIRED
from memo_lightning.version import __version__

_ERRORS = {
    400: "the body cannot be read",
    401: "the token is missing or wrong",
    404: EXPIRED,
    413: "the body is too large",
    415: "the body is neither JSON nor msgpack",
    422: "invalid fields in the body; the session is unchanged",
    503: "no more sessions, or the server is stopping",
}


def space_schema(space: Space) -> dict[str, Any]:
    """Return the JSON Schema for values of a Gymnasium space."""
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return {"type": "integer", "minimum": first, "maximum": first + int(space.n) - 1}
    if isinstance(space, spaces.Dict):
        parts = {str(key): space_schema(part) for key, part in space.spaces.items()}
        return {"type": "object", "properties": parts, "required": list(parts)}
    if isinstance(space, spaces.Tuple):
        parts_in_order = [space_schema(part) for part in space.spaces]
        n = len(parts_in_order)
        return {"type": "array", "prefixItems": parts_in_order, "minItems": n, "maxItems": n}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        items = [{"type": "integer", "minimum": int(s), "maximum": int(s + n - 1)} for s, n in _starts(space)]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(space, spaces.MultiBinary):
        item: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 1}
    elif isinstance(space, spaces.Box):
        item = {"type": "integer" if space.dtype.kind in "iu" else "number"}
        for name, bounds in (("minimum", space.low), ("maximum", space.high)):
            if bounds.size and np.isfinite(bounds).all() and (bounds == bounds.flat[0]).all():
                item[name] = bounds.flat[0].item()
    else:
        item = {"type": "integer"}
    assert space.shape is not None
    for size in reversed(space.shape):
        item = {"type": "array", "items": item, "minItems": size, "maxItems": size}
    return {**item, "description": f"{space.dtype} of shape {list(space.shape)}"}


def _starts(space: spaces.MultiDiscrete) -> list[tuple[int, int]]:
    return list(zip(space.start.tolist(), space.nvec.tolist(), strict=True))


def n_numbers(space: Space) -> int:
    """Return how many numbers a value of a space consists of."""
    if isinstance(space, spaces.Dict):
        return sum(n_numbers(part) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(n_numbers(part) for part in space.spaces)
    return int(np.prod(space.shape or ()))


def openapi(agent: Agent, *, needs_token: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of a server of this policy."""
    action = agent.spec.interface.action
    told: dict[str, Any] = {
        "observation": {"$ref": "#/components/schemas/Observation"},
        "reward": {"type": "number", "default": 0, "description": "of the step that led to the observation"},
        "episode_end": {"type": "boolean", "default": False, "description": "whether that step ended an episode"},
        "is_first": {"type": "boolean", "default": False, "description": "a new trial begins: clear the memory first"},
        "deterministic": {
            "type": "boolean",
            "description": "take the most likely action; default: the session's",
        },
        "details": {"type": "boolean", "default": False, "description": "also return value and probabilities"},
    }
    if action.masked:
        told["action_mask"] = {
            "type": "array",
            "items": {"type": "boolean"},
            "minItems": sum(action.n_values),
            "maxItems": sum(action.n_values),
            "description": "which actions are allowed; may be part of the observation instead",
        }
    schemas = {
        "Observation": space_schema(agent.observation_space),
        "Action": space_schema(agent.action_space),
        "NewSession": {
            "type": "object",
            "properties": {
                "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
                "deterministic": {"type": "boolean", "description": "default: the server's"},
            },
            "additionalProperties": False,
        },
        "Session": {
            "type": "object",
            "properties": {
                "session": {"type": "string"},
                "step": {"type": "integer", "description": "steps of the trial so far"},
                "idle_seconds": {
                    "type": "number",
                    "description": "after which the session ends if it receives no requests",
                },
            },
            "required": ["session", "step"],
        },
        "Step": {"type": "object", "properties": told, "required": ["observation"], "additionalProperties": False},
        "Answer": {
            "type": "object",
            "properties": {
                "action": {"$ref": "#/components/schemas/Action"},
                "step": {"type": "integer", "minimum": 1, "description": "of the trial"},
                "value": {"type": ["number", "null"]},
                "probabilities": {"type": ["array", "null"]},
            },
            "required": ["action", "step"],
        },
        "Error": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    }
    name = [{"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}]
    of_session = [400, 404, 422, 503]
    paths: dict[str, Any] = {
        "/sessions": {"post": _operation("Begin a session", "NewSession", "Session", [400, 422, 503], status=201)},
        "/sessions/{session}/act": {
            "parameters": name,
            "post": _operation("Send an observation and get an action", "Step", "Answer", [*of_session, 413, 415]),
        },
        "/sessions/{session}/reset": {
            "parameters": name,
            "post": _operation("Begin a new trial with an empty memory", None, "Session", [404, 503]),
        },
        "/sessions/{session}": {"parameters": name, "delete": _operation("End a session", None, None, [404])},
        "/health": {"get": _operation("Whether the server accepts requests", None, None, [503], status=200)},
        "/metrics": {"get": _operation("Metrics in the Prometheus text format", None, None, [], status=200)},
    }
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "memo serve",
            "version": __version__,
            "description": "A policy with a memory for each session. The WebSocket /ws accepts the same steps as "
            "messages: text frames are JSON, binary frames msgpack. In msgpack an array may be {dtype, shape, bytes}, "
            "in C order and little-endian.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _operation(
    summary: str, body: str | None, answer: str | None, errors: list[int], status: int = 0
) -> dict[str, Any]:
    def content(schema: str) -> dict[str, Any]:
        reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
        return {"application/json": reference, "application/msgpack": reference}

    operation: dict[str, Any] = {"summary": summary}
    if body is not None:
        operation["requestBody"] = {"required": body == "Step", "content": content(body)}
    done = {"description": summary, **({"content": content(answer)} if answer else {})}
    failed = {str(code): {"description": _ERRORS[code], "content": content("Error")} for code in errors}
    return {**operation, "responses": {str(status or (200 if answer else 204)): done, **failed}}
