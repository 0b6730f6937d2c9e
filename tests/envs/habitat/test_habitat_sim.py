"""The same house in habitat-sim and in the embedded simulator; runs where habitat-sim is installed."""

import copy

import numpy as np
import pytest

from memo_lightning.cli.main import main
from memo_lightning.envs.habitat.shim import habitat_sim_is_installed
from memo_lightning.envs.habitat.trial import TrialEnv
from memo_lightning.envs.object_navigation.trial_image import CAMERA
from memo_lightning.errors import UserError

STOP, FORWARD, LEFT = 0, 1, 2
needs_habitat_sim = [
    pytest.mark.habitat_sim,
    pytest.mark.skipif(not habitat_sim_is_installed(), reason="habitat-sim is not installed"),
]


@pytest.mark.skipif(habitat_sim_is_installed(), reason="is about machines without habitat-sim")
def test_without_habitat_sim_one_line_says_what_to_install():
    with pytest.raises(UserError, match=r"env.simulator=habitat_sim: habitat-sim is not installed: conda install"):
        TrialEnv(simulator="habitat_sim", scene_dataset="a", data_path="b")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the same trial in habitat-sim and in the embedded simulator."""
    folder = tmp_path_factory.mktemp("houses")
    small = ["n_houses=2", "n_placements=2", "n_episodes=4", "min_rooms=2", "max_rooms=3", "n_types=8", "n_objects=9"]
    assert main(["export-houses", f"run_dir={folder}", *(f"dataset.{option}" for option in small)]) == 0
    options = {
        "sensors": ("rgb", "depth", "semantic", "columns"),
        "data_path": str(folder / "train.jsonl.gz"),
        "trial_steps": 10**6,
    }
    real = TrialEnv(simulator="habitat_sim", scene_dataset=str(folder / "houses.scene_dataset_config.json"), **options)
    yield real, TrialEnv(**options)
    real.close()


class TestHabitatSim:
    pytestmark = needs_habitat_sim

    @pytest.mark.parametrize("placement", [0, 1, 2, 3])
    def test_the_first_images_agree(self, both, placement):
        seen = [env.reset(options={"placement": placement})[0] for env in both]
        depths = [10 * observation["depth"][..., 0] for observation in seen]
        assert np.quantile(np.abs(depths[0] - depths[1]), 0.9) <= 0.05
        assert (seen[0]["semantic"] == seen[1]["semantic"]).mean() > 0.95
        colours = np.abs(seen[0]["rgb"].astype(int) - seen[1]["rgb"].astype(int)).max(axis=-1)
        assert np.median(colours) < 40
        for name in ("goal", "position"):
            np.testing.assert_allclose(seen[0][name], seen[1][name], atol=1e-4)
        assert np.median(np.abs(seen[0]["column_range"] - seen[1]["column_range"])) < 0.01

    def test_objects_are_in_view_where_they_are_said_to_be(self, both):
        for placement in range(4):
            for env in both:
                env.reset(options={"placement": placement})
            for placed in both[1].habitat_env.sim.placement.objects:
                for env in both:
                    sim = env.habitat_env.sim
                    sim.set_agent_state([placed.view.x, 0.0, placed.view.z], placed.view.rotation)
                    sim.tilt_camera(placed.view.pitch)
                    sim.step(None)
                    pixels = sim.pixels_in_view(placed.instance)
                    assert pixels >= 10, (placement, placed.type, sim)

    def test_geodesic_distances_agree(self, both):
        rng = np.random.default_rng(0)
        for placement in range(4):
            for env in both:
                env.reset(options={"placement": placement})
            real, ours = (env.habitat_env.sim for env in both)
            for placed in ours.placement.objects:
                x, z = ours.navigator.sample(rng)
                start, goal = [x, 0.0, z], [placed.goal[0], 0.0, placed.goal[1]]
                assert real.geodesic_distance(start, goal) == pytest.approx(
                    ours.geodesic_distance(start, goal), rel=0.05, abs=0.05
                )

    def test_walking_agrees_where_nothing_is_in_the_way(self, both):
        for env in both:
            env.reset(options={"placement": 0})
        sim = both[1].habitat_env.sim
        n_free = 0
        for step in range(60):
            action = LEFT if step % 4 == 3 else FORWARD
            seen = [env.step(action)[0] for env in both]
            if sim.previous_step_collided:
                break
            n_free += 1
            np.testing.assert_allclose(seen[0]["position"], seen[1]["position"], atol=0.02)
        assert n_free >= 3

    def test_a_stop_at_the_goal_with_the_object_in_view_succeeds_in_both(self, both):
        for env in both:
            env.reset(options={"placement": 0})
            goal = env.habitat_env.current_episode.object_category
            sim = env.habitat_env.sim
            view = sim.placement.instances(goal)[0].view
            sim.set_agent_state([view.x, 0.0, view.z], view.rotation)
            sim.tilt_camera(view.pitch)
            sim.step(None)
            *_, info = env.step(STOP)
            assert info["success"] == 1.0
            assert info["episode_end"]

    def test_a_film_shows_images_also_where_the_agent_observes_none(self, both):
        real, ours = both
        for env in both:
            env.reset(options={"placement": 0})
            env.habitat_env.sim.tilt_camera(-30)
            env.habitat_env.sim.step(None)
        rgb, depth = real.habitat_env.sim.look(CAMERA)
        assert rgb.shape == (CAMERA.height, CAMERA.width, 3)
        assert np.quantile(np.abs(depth - ours.habitat_env.sim.look(CAMERA)[1]), 0.9) <= 0.05

    def test_an_episode_that_begins_off_the_floor_is_refused(self, both):
        real, _ = both
        real.reset(options={"placement": 0})
        sim = real.habitat_env.sim
        episode = copy.copy(real.habitat_env.current_episode)
        episode.start_position = [episode.start_position[0], 5.0, episode.start_position[2]]
        sim.reconfigure(sim.habitat_config, episode)
        with pytest.raises(UserError, match=r"start=.*: must be within 0.5 m of navigable floor"):
            sim.reset()

    def test_objects_stay_over_the_episodes_of_a_trial_and_change_with_the_placement(self, both):
        real, _ = both
        real.reset(options={"placement": 0})
        before = real.habitat_env.sim.get_rigid_object_manager().get_object_handles()
        real.step(STOP)
        assert real.habitat_env.sim.get_rigid_object_manager().get_object_handles() == before
        real.reset(options={"placement": 3})
        assert real.habitat_env.sim.get_rigid_object_manager().get_num_objects() == 9

    def test_a_missing_scene_is_named(self, both, tmp_path):
        with pytest.raises(UserError, match=r"env.scene_dataset='nowhere.json'"):
            TrialEnv(simulator="habitat_sim", scene_dataset="nowhere.json", data_path=str(tmp_path / "x"))
