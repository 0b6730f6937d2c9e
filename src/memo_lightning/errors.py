"""Errors that are shown to the user, exit statuses of commands, and the check that raises an error."""

from __future__ import annotations

from memo_lightning.wording import without_password

# Exit statuses of the command.
FAILED = 1
USAGE_ERROR = 2
PREEMPTED = 75  # "temporary failure, try again" in sysexits.h: resume with resume=
INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended
OUTPUT_CLOSED = 141  # the same, for one that nobody reads any more, as in `memo train --help | head`


class UserError(ValueError):
    """A user's mistake, shown as one line on stderr without a stack trace.

    The message names the field, its value and what is allowed. Passwords in addresses are hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_password(message))


class TrainingStopped(RuntimeError):
    """Training that cannot continue, though no one made a mistake; shown as one line that says what was kept."""


class Preempted(KeyboardInterrupt):
    """Preemption by SIGTERM: training ends as after Ctrl-C, with an exit status that asks for it to be resumed."""


class EnvironmentFailure(RuntimeError):
    """An environment that raised, died or hangs; shown with its own stack trace instead of ours."""


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raise a :class:`UserError` that names ``field``, its ``value`` and what is ``allowed``.

    Args:
        condition: what must hold.
        field: the setting as the user knows it, e.g. ``"gamma"``.
        value: the value that the user gave.
        allowed: what is allowed, as the end of the sentence "must be ...".

    Raises:
        UserError: if ``condition`` is false.
    """
    if not condition:
        raise UserError(f"{field}={value!r}: must be {allowed}")
