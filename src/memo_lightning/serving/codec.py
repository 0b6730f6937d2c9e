"""Messages as JSON or msgpack, neither of which can run code when it is read."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import msgpack
import numpy as np

from memo_lightning.wording import one_line

Kind = Literal["json", "msgpack"]
MEDIA_TYPES: dict[Kind, str] = {"json": "application/json", "msgpack": "application/msgpack"}
_MSGPACK = frozenset((MEDIA_TYPES["msgpack"], "application/x-msgpack", "application/vnd.msgpack"))
_ARRAY = {"dtype", "shape", "bytes"}
_DTYPES = frozenset(
    ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
)


class Unreadable(ValueError):
    """The message is not valid JSON or msgpack."""


def kind_of(media_type: str) -> Kind | None:
    """Return the kind of message that a ``Content-Type`` or ``Accept`` header names; None for any other."""
    for part in media_type.split(","):
        name = part.partition(";")[0].strip().lower()
        if name == MEDIA_TYPES["json"]:
            return "json"
        if name in _MSGPACK:
            return "msgpack"
    return None


def decode(body: bytes | str, kind: Kind) -> dict[str, Any]:
    """Decode a message; arrays in msgpack, ``{dtype, shape, bytes}``, become NumPy arrays.

    Raises:
        Unreadable: if it cannot be decoded, or is not a mapping.
    """
    try:
        if kind == "json":
            message = json.loads(body)
        else:
            packed = body.encode() if isinstance(body, str) else body
            message = msgpack.unpackb(packed, object_hook=_array, raw=False)
    except RecursionError:
        raise Unreadable(f"the message is not valid {kind}: it is nested too deeply") from None
    except Unreadable:
        raise
    except Exception as error:  # msgpack raises errors of several kinds
        raise Unreadable(f"the message is not valid {kind}: {one_line(error)}") from None
    if not isinstance(message, dict):
        raise Unreadable(f"the message is a {type(message).__name__}: must be a mapping, e.g. {{observation: ...}}")
    return message


def encode(message: Any, kind: Kind) -> bytes:
    """Encode a message of numbers, text, lists and mappings as bytes."""
    if kind == "json":
        return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    packed: bytes = msgpack.packb(message)
    return packed


def _array(value: dict[str, Any]) -> Any:
    """Return the array that a mapping stands for, or else the mapping itself."""
    if value.keys() != _ARRAY:
        return value
    name, shape, data = value["dtype"], value["shape"], value["bytes"]
    if name not in _DTYPES:
        raise Unreadable(f"dtype={name!r}: must be one of {', '.join(sorted(_DTYPES))}")
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not is_shape or not isinstance(data, bytes):
        raise Unreadable("an array: must have a list of sizes as shape and binary data as bytes")
    dtype = np.dtype(name).newbyteorder("<")
    if len(data) != math.prod(shape) * dtype.itemsize:
        needed = math.prod(shape) * dtype.itemsize
        raise Unreadable(f"an array of dtype {name} and shape {shape} has {len(data)} bytes: must have {needed}")
    return np.frombuffer(data, dtype).reshape(shape).astype(np.dtype(name))
