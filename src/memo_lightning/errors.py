"""The errors that are shown to the user, the exit statuses of commands, and the checks that raise the errors."""

from __future__ import annotations

# Exit statuses of the command.
FAILED = 1
USAGE_ERROR = 2
PREEMPTED = 75  # "temporary failure, try again" in sysexits.h: resume with resume=
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


class UserError(ValueError):
    """A mistake of the user's: shown as one line on stderr, without a stack trace.

    The message names the field, its value and what is allowed.
    """


class TrainingStopped(RuntimeError):
    """Training cannot continue, though nobody made a mistake: shown as one line, which says what was kept."""


class Preempted(KeyboardInterrupt):
    """The machine is wanted back (SIGTERM): training ends as after Ctrl-C; its exit status asks to resume it."""


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
