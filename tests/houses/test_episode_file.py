import gzip
import json

import pytest

from memo_lightning.errors import UserError
from memo_lightning.houses import GeneratedSource
from memo_lightning.houses.episode_file import EpisodeFile, StoredPlacement, dump, load, read_text, write_text
from memo_lightning.houses.sources import check_walkable


@pytest.fixture(scope="module")
def original():
    source = GeneratedSource("train", n_houses=2, n_placements=2, min_rooms=2, max_rooms=3)
    placements = [
        StoredPlacement(source.placement(index), tuple(source.start(index, number) for number in range(3)))
        for index in range(source.n_placements)
    ]
    return EpisodeFile("train", placements)


@pytest.fixture(scope="module")
def text(original):
    return dump(original)


@pytest.mark.parametrize("name", ["episodes.jsonl", "episodes.jsonl.gz"])
def test_what_is_written_is_read_back_the_same(original, text, tmp_path, name):
    write_text(tmp_path / name, text)
    assert load(read_text(tmp_path / name)) == original
    again = tmp_path / f"again-{name}"
    write_text(again, text)
    assert again.read_bytes() == (tmp_path / name).read_bytes()


def damaged(text, number, change):
    lines = text.splitlines()
    plain = json.loads(lines[number - 1])
    change(plain)
    lines[number - 1] = json.dumps(plain)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plain: plain.pop("objects"), "'objects' is missing"),
        (lambda plain: plain["objects"][2].update(type="unicorn"), "'unicorn'"),
        (lambda plain: plain["objects"][2].update(position=[0, 1]), "3 finite numbers"),
        (lambda plain: plain["objects"][2].update(position=[0, 1, float("nan")]), "3 finite numbers"),
        (lambda plain: plain["objects"][0].update(instance=2), "same instance"),
        (lambda plain: plain["objects"][0].update(instance=0), "at least 1"),
        (lambda plain: plain["objects"][0].update(instance=float("inf")), "infinity"),
        (lambda plain: plain["objects"].__setitem__(0, "ball"), "object 'ball': must be a JSON object"),
        (lambda plain: plain["episodes"][1].__setitem__(4, "unicorn"), "goal='unicorn': must be one of"),
        (lambda plain: plain["episodes"].clear(), "at least one"),
        (lambda plain: plain["episodes"].__setitem__(0, [1, 2]), r"episode \[1, 2\]: must be \[x, y, z, h"),
        (lambda plain: plain["episodes"][0].__setitem__(3, 17), "heading of episode 0 is 17: must be a multiple of 30"),
        (
            lambda plain: plain["episodes"][1].__setitem__(0, -50),
            "start of episode 1 at x=-50, .*: this position is blocked",
        ),
        (
            lambda plain: plain["objects"][2]["goal"].__setitem__(2, 99),
            "goal of object 3 at .*, z=99: this position is blocked",
        ),
        (lambda plain: plain.update(scene_id=5), "scene_id=5"),
        (lambda plain: plain.update(scene_id="castle"), "scene_id='castle': must be a generated house"),
        (lambda plain: plain.update(objects=3), "objects=3: must be a list"),
        (lambda plain: plain.update(objects="x"), "objects='x': must be a list"),
    ],
)
def test_a_corrupt_line_is_named(text, change, complaint):
    with pytest.raises(UserError, match=f"line 3: .*{complaint}"):
        load(damaged(text, 3, change), check=check_walkable)


def test_lines_that_are_not_json_are_named(text):
    lines = text.splitlines()
    with pytest.raises(UserError, match="line 4, column"):
        load("\n".join([*lines[:3], lines[3][:100], *lines[4:]]))
    with pytest.raises(UserError, match="line 1"):
        load("")
    with pytest.raises(UserError, match="line 1: format='other'"):
        load('{"format": "other"}')
    with pytest.raises(UserError, match="no placements"):
        load(lines[0])
    with pytest.raises(UserError, match="line 2: '3'"):
        load(lines[0] + "\n3\n")
    with pytest.raises(UserError, match=r"^episodes\.jsonl, line 1"):
        load("", "episodes.jsonl")


def test_a_file_without_heights_and_split_is_read_as_it_was_written(original, text):
    plain = [json.loads(line) for line in text.splitlines()]
    del plain[0]["split"]
    for placement in plain[1:]:
        for placed in placement["objects"]:
            del placed["goal"][1], placed["view"][1]
        for episode in placement["episodes"]:
            del episode[1]
    assert load("\n".join(map(json.dumps, plain))) == EpisodeFile(None, original.placements)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.jsonl cannot be read"):
        read_text(tmp_path / "nowhere.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(UserError, match=r"cut.jsonl.gz cannot be read"):
        read_text(tmp_path / "cut.jsonl.gz")
