"""``baseline=custom baseline.target=my.module.MyModel``: a user's own memory."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any

from memo_lightning.callbacks.baselines.base import Baseline
from memo_lightning.config import construct
from memo_lightning.errors import UserError
from memo_lightning.models import SequenceModel


class CustomBaseline(Baseline):
    """A subclass of :class:`SequenceModel` from anywhere on the Python path.

    Args:
        target: dotted path of the class.
        settings: its arguments.

    Raises:
        UserError: if it cannot be imported, is no :class:`SequenceModel`, or does not take the settings.
    """

    def __init__(self, *, target: str | None, settings: dict[str, Any]) -> None:
        if not target:
            raise UserError("baseline.target=null: must be the dotted path of a SequenceModel, e.g. my.module.MyModel")
        try:
            model_class = pkgutil.resolve_name(target)
        except Exception as error:  # importing runs the user's module, which may raise anything
            raise UserError(f"baseline.target={target}: cannot be imported ({' '.join(str(error).split())})") from error
        if not (inspect.isclass(model_class) and issubclass(model_class, SequenceModel)):
            raise UserError(f"baseline.target={target}: must be a subclass of memo_lightning.models.SequenceModel")
        missing = sorted(getattr(model_class, "__abstractmethods__", ()))
        if missing:
            raise UserError(f"baseline.target={target}: must implement {', '.join(missing)}")
        self.model = construct(model_class, **settings)
