"""What the command does when nobody reads its output any more."""

import subprocess
import sys

import pytest

from memo_lightning.cli import evaluate
from memo_lightning.cli.main import main
from memo_lightning.errors import OUTPUT_CLOSED


@pytest.mark.parametrize(
    "words", ["main --help", "main train --help", "train --help", "main evaluate checkpoint=x 2>&1"]
)
def test_output_that_nobody_reads_ends_the_command_without_a_stack_trace(words):
    command = f'{sys.executable} -m memo_lightning.cli.{words} | true; exit "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", OUTPUT_CLOSED)


def test_another_broken_pipe_is_an_error_like_any_other(monkeypatch):
    def fails(arguments):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(evaluate, "main", fails)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main(["evaluate"])
