import json
import time

import pytest
from omegaconf import OmegaConf

from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.dataset import ExtObjNavDataset
from memo_lightning.errors import UserError

SMALL = {"n_houses": 2, "n_placements": 2, "n_episodes": 3, "min_rooms": 2, "max_rooms": 3}


def dataset_of(split="train", data_path="", **options):
    return ExtObjNavDataset(make_config(split=split, data_path=data_path, dataset=options).habitat.dataset)


@pytest.fixture(scope="module")
def text():
    return dataset_of(**SMALL).to_json()


def test_the_whole_dataset_opens_at_once():
    start = time.perf_counter()
    train, held_out = dataset_of("train"), dataset_of("held_out")
    assert time.perf_counter() - start < 2.0
    assert (train.n_placements, len(train.scene_ids)) == (37 * 300, 37)
    assert (held_out.n_placements, len(held_out.scene_ids)) == (12 * 300, 12)
    assert len(train.episodes) == 37 * 300 * 64
    assert not set(train.scene_ids) & set(held_out.scene_ids)


def test_the_same_episode_is_made_every_time_and_all_keep_the_placement():
    a, b = dataset_of(**SMALL), dataset_of(**SMALL)
    assert [episode.start_position for episode in a.episodes] == [e.start_position for e in b.episodes]
    first = a.episodes[:3]
    assert len({id(episode.placement) for episode in first}) == 1
    assert len({episode.episode_id for episode in a.episodes}) == len(a.episodes) == 12
    assert a.episodes[-1].episode_id == a.episode(3, 2).episode_id
    assert a.episode(0, 1000).placement is first[0].placement
    with pytest.raises(IndexError):
        a.episodes[12]


def test_iterating_keeps_placements_together_and_starts_again():
    dataset = dataset_of(**SMALL)
    iterator = dataset.get_episode_iterator(shuffle=False, seed=0)
    ids = [next(iterator).episode_id for _ in range(24)]
    assert ids[:12] == ids[12:] == [episode.episode_id for episode in dataset.episodes]
    shuffled = dataset.get_episode_iterator(shuffle=True, seed=1, group_by_scene=True, max_scene_repeat_steps=-1)
    episodes = [next(shuffled) for _ in range(12)]
    assert sorted(episode.episode_id for episode in episodes) == sorted(ids[:12])
    assert len({episode.scene_id for episode in episodes[:6]}) == 1
    once = dataset.get_episode_iterator(cycle=False)
    assert len(list(once)) == 12


@pytest.mark.parametrize("name", ["episodes.jsonl", "episodes.jsonl.gz"])
def test_a_saved_dataset_comes_back_the_same(tmp_path, name):
    original = dataset_of(**SMALL)
    n_rejected = original.save(tmp_path / name)
    assert n_rejected == sum(original.placement(k).n_rejected for k in range(4))
    loaded = dataset_of(data_path=str(tmp_path / name))
    assert loaded.n_placements == 4
    for index in range(4):
        assert loaded.placement(index) == original.placement(index)
    for a, b in zip(original.episodes, loaded.episodes, strict=True):
        assert a == b
    assert loaded.episode(0, 4).start_position == original.episode(0, 1).start_position  # wraps around after 3


def test_a_file_of_generated_houses_is_checked_and_its_line_named(text):
    lines = text.splitlines()
    plain = json.loads(lines[2])
    plain["episodes"][1][0] = -50
    lines[2] = json.dumps(plain)
    with pytest.raises(UserError, match=r"line 3: the start of episode 1 at x=-50, .*: this position is blocked"):
        dataset_of(**SMALL).from_json("\n".join(lines))


def test_the_name_of_the_file_is_in_the_message(text, tmp_path):
    (tmp_path / "cut.jsonl").write_text(text[:-100])
    with pytest.raises(UserError, match=r"episode file .*cut.jsonl, line 5, column"):
        dataset_of(data_path=str(tmp_path / "cut.jsonl"))


def test_a_folder_holds_a_file_per_split_and_the_wrong_split_is_refused(tmp_path):
    for split in ("train", "held_out"):
        dataset_of(split, **SMALL).save(tmp_path / f"{split}.jsonl.gz")
    train, held_out = (dataset_of(split, str(tmp_path)) for split in ("train", "held_out"))
    assert train.scene_ids == dataset_of("train", **SMALL).scene_ids
    assert held_out.scene_ids == dataset_of("held_out", **SMALL).scene_ids
    with pytest.raises(UserError, match=r"contains split 'train', but env.split=held_out"):
        dataset_of("held_out", str(tmp_path / "train.jsonl.gz"))
    with pytest.raises(UserError, match=r"held_out_placements.jsonl.gz cannot be read"):
        dataset_of("held_out_placements", str(tmp_path))


def test_heights_of_floors_are_kept():
    """This concerns scenes other than generated houses, which only habitat-sim can load."""
    config = make_config(dataset=SMALL).copy()
    OmegaConf.set_readonly(config, False)
    config.habitat.dataset.scene_dataset = "hm3d.scene_dataset_config.json"
    plain = [json.loads(line) for line in ExtObjNavDataset(config.habitat.dataset).to_json().splitlines()]
    for placement in plain[1:]:
        placement["scene_id"] = "00800-TEEsavR23oF"
        placement["objects"][0]["goal"][1] = placement["objects"][0]["view"][1] = 2.5
        placement["episodes"][0][:2] = [-50.0, -3.25]
        placement["episodes"][0][4] = placement["objects"][0]["type"]
    dataset = ExtObjNavDataset(config.habitat.dataset)
    dataset.from_json("\n".join(map(json.dumps, plain)))
    first, second = dataset.episode(0, 0), dataset.episode(0, 1)
    assert first.start_position[:2] == [-50.0, -3.25]
    assert second.origin_position == first.start_position
    goal = next(goal for goal in first.goals if goal.object_name_id == 1)
    assert goal.position[1] == goal.view_points[0].agent_state.position[1] == 2.5
    again = ExtObjNavDataset(config.habitat.dataset)
    again.from_json(dataset.to_json())
    assert again.episode(0, 0) == first


def test_options_of_the_configuration_reach_the_source_and_bad_ones_are_named():
    assert dataset_of(**SMALL).n_placements == 4
    with pytest.raises(UserError, match="dataset option='rooms': must be one of n_houses"):
        dataset_of(rooms=4)
