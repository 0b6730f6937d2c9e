"""Overrides: which values are read as written, which need quotes, and which are rejected."""

import shlex

import pytest

from memo_lightning.config import compose_config
from memo_lightning.errors import UserError
from memo_lightning.overrides import command, override_text, parse_override

AWKWARD = [
    "runs/rate=0.1",
    "runs/#1",
    "my runs/first",
    "läufe/é",
    "a,b",
    "it's",
    "2024",
    "1e3",
    "true",
    "[a]",
    "'q'",
    "a\\",
]


@pytest.mark.parametrize(
    "key", ["run_dir", "checkpoint", "resume", "env.data_path", "logger.tracking_uri", "storage", "evaluation"]
)
@pytest.mark.parametrize("path", AWKWARD[:-2])
def test_a_plain_path_is_taken_as_it_is(key, path):
    assert parse_override(f"{key}={path}").value() == path


def test_a_path_may_be_quoted_refer_to_a_setting_or_be_null():
    assert parse_override("run_dir='my runs'").value() == "my runs"
    assert parse_override("run_dir=null").value() is None
    assert compose_config("train", ["run_dir=runs/${seed}", "seed=3"]).run_dir == "runs/3"


@pytest.mark.parametrize("text", [*AWKWARD, "null", "${seed}", "first, second = #3"])
@pytest.mark.parametrize("key", ["run_dir", "study", "logger.tags.note"])
def test_text_arrives_through_shell_and_grammar(key, text):
    (word,) = shlex.split(command(override_text(key, text)))
    assert parse_override(word).value() == text


def test_text_that_needs_no_quotes_has_none():
    assert override_text("run_dir", "runs/a=b") == "run_dir=runs/a=b"
    assert override_text("env.id", "2024") == "env.id='2024'"
    assert override_text("study", "2024") == "study=2024", "a name may look like a number"
    assert command("memo", "train", "run_dir=runs/a") == "memo train run_dir=runs/a"


@pytest.mark.parametrize("value", ["2024", "007", "1e3", "0.50", "1_000", "true", "nan"])
@pytest.mark.parametrize("key", ["logger.experiment_name", "logger.run_name", "name", "study", "group_by", "+tags.a.b"])
def test_a_name_is_text_also_where_it_looks_like_something_else(key, value):
    assert parse_override(f"{key}={value}").value() == value
    assert parse_override(f"{key}=null").value() is None
    assert parse_override(f"env.settings.{key.lstrip('+')}=3").value() == 3, "of which nobody knows what it is"


def test_text_that_the_grammar_does_not_know_needs_no_quotes():
    assert compose_config("train", ["logger.experiment_name=é = #1"]).logger.experiment_name == "é = #1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=0,1", "must be one value; for a list write 'seed=[0,1]', for text"),
        ("~seed", "must have the form key=value; a setting cannot be removed"),
        ("memories=[memo", "the value has unclosed brackets or quotes"),
        ("logger.tags.my note=1", "logger.tags={my note: first}"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_a_remedy(text, message):
    with pytest.raises(UserError) as error:
        parse_override(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_remedies_can_be_pasted():
    assert compose_config("train", ["logger.tags={my note: first}"]).logger.tags == {"my note": "first"}
    assert compose_config("compare", ["study='a,b'"]).study == "a,b"
