"""Arguments that do not fit are told by name, wherever the signature says what fits."""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from memo_lightning.construct import check_types, construct
from memo_lightning.errors import UserError
from memo_lightning.models import GRU


class Base:
    def __init__(self, size: int, rate: float = 0.1, sizes: Sequence[int] = (), kind: Literal["a", "b"] = "a") -> None:
        self.sum = size + rate


class Broken(Base):
    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.sum += "1"


class Derived(Base):
    def __init__(self, name: str | None = None, anything=None, **settings) -> None:
        super().__init__(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "1"}, "size='1': must be an integer"),
        ({"size": True}, "size=True: must be an integer"),
        ({"size": 1.5}, "size=1.5: must be an integer"),
        ({"rate": None}, "rate=None: must be a number"),
        ({"name": 3}, "name=3: must be text or None"),
        ({"size": np.int64(1), "rate": np.float32(1), "name": None}, None),
        ({"size": 1, "rate": 1, "sizes": 3, "kind": 3, "anything": object()}, None),
    ],
)
def test_types_are_those_of_the_signatures_where_these_are_plain(settings, message):
    if message is None:
        check_types(Derived, settings, "model.")
        return
    with pytest.raises(UserError, match=re.escape(f"model.{message}")):
        check_types(Derived, settings, "model.")


def test_a_constructor_that_fails_on_the_type_of_a_setting_is_told_as_that():
    with pytest.raises(UserError, match=r"^n_layers='two': must be an integer$"):
        construct(GRU, d_model=8, n_layers="two")
    with pytest.raises(TypeError):  # a bug in the constructor
        construct(Broken, size=3)
