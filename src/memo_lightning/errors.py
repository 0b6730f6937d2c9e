"""The errors that are shown to the user, and the checks that raise them."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: shown as one line on stderr, without a stack trace.

    The message names the field, its value and what is allowed.
    """


class EnvironmentFailure(RuntimeError):
    """An environment that raised, died or hangs: shown with its own stack trace, and not with ours."""


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise a :class:`UserError` that names ``field``, its ``value`` and what is ``allowed``.

    Args:
        condition: what must hold.
        field: the setting as the user knows it, e.g. ``"gamma"``.
        value: what the user gave.
        allowed: what is allowed, as the end of the sentence "must be ...".

    Raises:
        UserError: if ``condition`` is false.
    """
    if not condition:
        raise UserError(f"{field}={value!r}: must be {allowed}")
