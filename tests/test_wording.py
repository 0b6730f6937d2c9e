"""Numbers shown to people keep their distinguishing digits, whatever their size."""

import pytest

from memo_lightning.wording import returns_in_words


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
