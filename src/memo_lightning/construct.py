"""Importing what a dotted path names, and calling it with settings, with errors that a user can act on."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from memo_lightning.errors import UserError

_TYPES: dict[Any, str] = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "None"}


def resolve(field: str, path: str) -> Any:
    """Return the object named by a dotted path such as ``my.module.MyClass`` or ``my.module:make``.

    Args:
        field: the setting that holds the path, for the message.
        path: the dotted path.

    Raises:
        UserError: if it cannot be imported.
    """
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise UserError(f"{field}={path}: cannot be imported ({' '.join(str(error).split())})") from error


def resolve_class(field: str, path: str, kind: type) -> Any:
    """Return the class that a dotted path names, a concrete subclass of ``kind``.

    Paths in checkpoints are only resolved by this function, so that no checkpoint can name anything else to be called.

    Raises:
        UserError: if it cannot be imported, is not a subclass of ``kind``, or leaves abstract methods unimplemented.
    """
    found = resolve(field, path)
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise UserError(f"{field}={path}: must be a subclass of {kind.__module__.rpartition('.')[0]}.{kind.__name__}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise UserError(f"{field}={path}: must implement {', '.join(missing)}")
    return found


def construct(target: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call ``target``, and turn a rejection of its arguments into a :class:`UserError`.

    Raises:
        UserError: if the arguments do not fit the signature, or ``target`` rejects them with ``ValueError``.
    """
    function = _function(target)
    try:
        inspect.signature(function).bind(*(None, *args) if inspect.isclass(target) else args, **kwargs)
    except TypeError as error:
        raise UserError(f"{target.__qualname__}: {error}") from None
    known, required = _keywords(target)
    if known is not None:
        for name in kwargs.keys() - known:
            raise UserError(f"{target.__qualname__}: got an unexpected keyword argument {name!r}")
    for name in sorted(required - kwargs.keys()):
        raise UserError(f"{target.__qualname__}: missing a required argument: {name!r}")
    try:
        return target(*args, **kwargs)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    except TypeError:
        check_types(target, kwargs)
        raise


def check_types(target: Callable[..., Any], settings: Mapping[str, Any], group: str = "") -> None:
    """Check the ``settings`` whose arguments of ``target`` are annotated as a number, text, a flag, or None.

    Args:
        target: a class or function.
        settings: its arguments by name.
        group: what precedes their names in messages, e.g. ``"model."``.

    Raises:
        UserError: if a value is of another type.
    """
    annotated = _annotations(target)
    for name, value in settings.items():
        kind = annotated.get(name)
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        if all(kind in _TYPES for kind in kinds) and not any(_is_a(value, kind) for kind in kinds):
            allowed = " or ".join(_TYPES[kind] for kind in kinds)
            raise UserError(f"{group}{name}={value!r}: must be {allowed}")


def accepted(target: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``settings`` that ``target`` accepts by name."""
    known, _ = _keywords(target)
    return {name: value for name, value in settings.items() if known is None or name in known}


def keyword_names(target: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments that ``target`` accepts, sorted; none if it accepts any name."""
    known, _ = _keywords(target)
    return sorted((known or set()) - {"self"})


def _function(target: Callable[..., Any]) -> Callable[..., Any]:
    # For a class, its __init__, as a metaclass may hide the signature of the call.
    return target.__init__ if inspect.isclass(target) else target


def _constructors(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the constructors of a class in the method resolution order; for a function, the function."""
    if not inspect.isclass(target):
        return [target]
    return [kind.__dict__["__init__"] for kind in inspect.getmro(target) if "__init__" in kind.__dict__]


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the arguments that ``target`` accepts by name, as far as they can be found out."""
    found: dict[str, Any] = {}
    for function in reversed(_constructors(target)):
        with suppress(NameError, TypeError):  # types imported for type checkers only, and constructors without any
            for name, kind in get_type_hints(function).items():
                unpacked = next(iter(get_args(kind)), None)
                found |= get_type_hints(unpacked) if is_typeddict(unpacked) else {name: kind}
    return found


def _is_a(value: Any, kind: type) -> bool:
    """Return whether a value serves as ``kind``: integers serve as floats, and NumPy's numbers as Python's."""
    is_flag = isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not is_flag
    return isinstance(value, kind)


def _keywords(target: Callable[..., Any]) -> tuple[set[str] | None, set[str]]:
    """Return the argument names that ``target`` accepts, None for any, and the required ones that its signature hides.

    ``**settings`` stands for a ``TypedDict`` if it is annotated as ``Unpack`` of one. Otherwise, in a class, it stands
    for whatever the next constructor in the method resolution order accepts.
    """
    names: set[str] = set()
    for function in _constructors(target):
        rest = None
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                rest = parameter
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                names.add(parameter.name)
        if rest is None:
            return names, set()
        (unpacked,) = get_args(get_type_hints(function).get(rest.name)) or (None,)
        if is_typeddict(unpacked):
            return names | set(unpacked.__annotations__), set(unpacked.__required_keys__)
    return None, set()
