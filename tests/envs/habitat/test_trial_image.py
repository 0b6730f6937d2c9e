import numpy as np

from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.object_navigation.trial_image import CAMERA, FOOTER, HEADER, SIDE
from memo_lightning.houses import OBJECT_TYPES, Camera

DATASET = {"n_houses": 1, "n_placements": 2, "min_rooms": 2, "max_rooms": 2, "n_types": 4, "n_objects": 5}
BLUE = (40, 110, 220)


def test_an_image_shows_what_is_seen_and_where_the_agent_has_been():
    env = HabitatTrials(trial_steps=100, sensors=(), dataset=DATASET)
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (HEADER + SIDE + FOOTER, 3 * SIDE, 3)
    assert first.dtype == np.uint8
    assert not any(side % 2 for side in first.shape[:2])  # video encoders need even sides
    rgb, depth = env.habitat_env.sim.look(Camera(SIDE, SIDE, 79, CAMERA.eye_height))
    np.testing.assert_array_equal(first[HEADER:-FOOTER, :SIDE], rgb)
    near = first[HEADER:-FOOTER, SIDE : 2 * SIDE].astype(int).sum(-1)
    assert np.corrcoef(near.ravel(), depth.ravel())[0, 1] < -0.8  # near is bright

    before = (first[HEADER:-FOOTER, 2 * SIDE :] == BLUE).all(-1).sum()
    for _ in range(20):
        env.step(1)
        env.step(2)
    walked = (env.render()[HEADER:-FOOTER, 2 * SIDE :] == BLUE).all(-1).sum()
    assert before == 0 < walked


def test_how_an_episode_ended_is_kept_for_a_video():
    env = HabitatTrials(trial_steps=100, sensors=(), dataset=DATASET)
    env.reset(seed=0)
    env.watch()
    env.step(1)
    assert env.last_image is None
    before = env.render()
    env.step(0)
    np.testing.assert_array_equal(env.last_image[HEADER:], before[HEADER:])
    assert (env.render() != env.last_image).mean() > 0.1, "the next episode begins elsewhere"


def test_the_goal_is_ringed_on_the_map_where_it_stands():
    env = HabitatTrials(trial_steps=100, sensors=(), dataset=DATASET)
    env.reset(seed=1)
    sim, goal = env.habitat_env.sim, env.habitat_env.current_episode.object_category
    image = env.render()[HEADER:-FOOTER, 2 * SIDE :]
    rows, columns = np.nonzero((image == (220, 30, 40)).all(-1))
    lower, upper = sim.pathfinder.get_bounds()
    scale = (SIDE - 16) / max(upper[0] - lower[0], upper[2] - lower[2])
    instances = sim.placement.instances(goal)
    x = np.mean([placed.position[0] for placed in instances]) - (lower[0] + upper[0]) / 2
    z = np.mean([placed.position[2] for placed in instances]) - (lower[2] + upper[2]) / 2
    if len(instances) == 1:
        assert abs(columns.mean() - SIDE / 2 - x * scale) < 4
        assert abs(rows.mean() - SIDE / 2 - z * scale) < 4
    assert len(rows) > 50 * len(instances)


def test_every_colour_of_a_mark_on_the_map_is_explained_below_it():
    env = HabitatTrials(trial_steps=100, sensors=(), dataset=DATASET)
    env.reset(seed=0)
    for _ in range(20):
        env.step(1)
        env.step(2)
    image = env.render()[:, 2 * SIDE :]
    on_map, below = (
        {tuple(colour) for colour in part.reshape(-1, 3).tolist()} for part in (image[HEADER:-FOOTER], image[-FOOTER:])
    )
    objects = {object_type.solids[0].paint.colour for object_type in OBJECT_TYPES}
    assert len(on_map) >= 5
    assert on_map - objects <= below
