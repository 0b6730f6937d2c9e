"""Files are complete, no matter when the process that writes them is killed."""

import subprocess
import sys
import time

import pytest

from memo_lightning.files import write_atomically

WRITER = """
import sys
from pathlib import Path
from memo_lightning.files import write_atomically
number = 0
while True:
    write_atomically(Path(sys.argv[1]), bytes([number % 256]) * 20_000_000)
    number += 1
"""


def test_a_file_survives_a_kill_in_the_middle_of_the_next(tmp_path):
    path, partial = tmp_path / "last.ckpt", tmp_path / "last.ckpt.partial"
    caught = 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while not (path.exists() and partial.exists()):
            time.sleep(0.001)
        process.kill()
        process.wait()
        caught += partial.exists()
        content = path.read_bytes()
        assert content == content[:1] * 20_000_000
        if caught == 2:
            break
    assert caught == 2, "no kill came in the middle of writing"


def test_what_cannot_be_written_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 5)
    (tmp_path / "file.partial").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(path, "new")
    (tmp_path / "file.partial").rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
