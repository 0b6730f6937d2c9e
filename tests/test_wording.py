"""Numbers shown to people keep their distinguishing digits, whatever their size."""

import sqlite3

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from memo_lightning.errors import UserError
from memo_lightning.wording import one_line, returns_in_words, without_password


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.976, 0.968, 0.981], ["0.98", "0.97", "0.98"]),
        ([-0.5], ["-0.50"]),
        ([8.46, 15.61], ["8.5", "15.6"]),
        ([-1072.4], ["-1,072.4"]),
        ([-0.0001, 0.0, 0.97], ["0.00", "0.00", "0.97"]),
        ([123456.7, 8.5], ["123,457", "8"]),
        ([1.23456e9, -2e8], ["1.23e+09", "-2e+08"]),
        ([float("nan")], ["nan"]),
    ],
)
def test_returns_have_one_decimal_or_two_where_all_are_small(values, words):
    assert returns_in_words(*values) == words


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host/runs", "postgresql://me:***@host/runs"),
        ("uri=http://me:p@ss@host:5000: cannot be read", "uri=http://me:***@host:5000: cannot be read"),
        ("https://host:5000/a@b sqlite:///mlflow.db", "https://host:5000/a@b sqlite:///mlflow.db"),
        ("a://u:x@h b://v:y@i", "a://u:***@h b://v:***@i"),
    ],
)
def test_passwords_in_addresses_are_hidden(address, shown):
    assert without_password(address) == shown
    assert str(UserError(address)) == shown


def test_errors_of_databases_and_empty_ones_are_one_line():
    with pytest.raises(OperationalError) as error, create_engine("sqlite://").connect() as connection:
        connection.execute(text("SELECT 1 FROM nowhere"))
    assert "\n" in str(error.value)
    assert one_line(error.value) == "no such table: nowhere"
    assert one_line(ValueError("\n first.\nsecond")) == "first"
    assert one_line(sqlite3.Error()) == "Error"
