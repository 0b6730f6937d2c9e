"""The same house in habitat-sim and in the embedded simulator; these tests need habitat-sim."""

import copy
import subprocess
import sys
from inspect import signature

import numpy as np
import pytest

from memo_lightning.cli.main import main
from memo_lightning.config import compose_config
from memo_lightning.envs.build import build_env
from memo_lightning.envs.habitat.shim import habitat_sim_is_installed
from memo_lightning.envs.habitat.trial import HabitatTrials
from memo_lightning.envs.object_navigation.batched import BatchedExtObjNav
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
        HabitatTrials(simulator="habitat_sim", scene_dataset="a", data_path="b")


@pytest.mark.parametrize("workers", [0, 2])
def test_several_habitat_sims_in_one_process_are_refused(workers, monkeypatch):
    """Several habitat-sims in one process abort it when they close."""
    monkeypatch.setattr("memo_lightning.envs.habitat.ext_objnav.habitat_sim_is_installed", lambda: True)
    settings = ["env=ext_objnav", "env.simulator=habitat_sim", f"env.workers={workers}"]
    with pytest.raises(UserError, match=rf"env.workers={workers}: must be 4, the number of environments"):
        build_env(compose_config("train", settings).env, 4, 0)


@pytest.fixture
def processes(monkeypatch):
    """Replace habitat-sims by stubs; return the number of environments and of processes that are built."""
    built, taken = [], signature(BatchedExtObjNav.__init__).parameters

    def build_instead(*, n_envs, workers, **settings):
        built.append((n_envs, workers))
        settings = {key: value for key, value in settings.items() if key in taken}
        return BatchedExtObjNav(n_envs=n_envs, **settings)

    monkeypatch.setattr("memo_lightning.envs.object_navigation.make.make_ext_objnav", build_instead)
    return built


def test_no_command_builds_several_habitat_sims_in_one_process(processes, tmp_path, capsys):
    small = {"n_houses": 1, "n_placements": 2, "min_rooms": 2, "max_rooms": 2, "n_types": 3, "n_objects": 3}
    dataset = [f"env.dataset.{name}={value}" for name, value in small.items()]
    env = ["env=ext_objnav", "env.simulator=habitat_sim", "env.workers=3", "env.sensors=[columns]", *dataset]
    length = ["env.trial_length=16", "env.episode_length=8", "collector.n_envs=3", "algorithm.n_minibatches=3"]
    model = ["model.segment_length=8", "model.d_model=16", "model.n_heads=2"]
    assert main(["check-env", *env, *length, *model]) == 0
    assert "not checked, as every environment has its own process" in capsys.readouterr().out
    run = tmp_path / "run"
    assert main(["train", *env, *length, *model, "total_frames=48", "logger=none", f"run_dir={run}"]) == 0
    assert main(["evaluate", f"checkpoint={run}", "n_envs=2", "n_trials=2", "render=true"]) == 0
    assert (run / "evaluation" / "trial.html").is_file()
    assert {n_envs for n_envs, _ in processes} == {4, 3, 2, 1}
    assert all(n_envs in (1, workers) for n_envs, workers in processes)


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
    real = HabitatTrials(
        simulator="habitat_sim", scene_dataset=str(folder / "houses.scene_dataset_config.json"), **options
    )
    yield real, HabitatTrials(**options)
    real.close()


def run_alone(both, code):
    """Run code with another habitat-sim in a separate process, because a process can hold only one."""
    dataset = both[0].habitat_env.sim.habitat_config.scene_dataset
    lines = f"from memo_lightning.envs.habitat.trial import HabitatTrials\nDATASET = {dataset!r}\n{code}"
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=300)


class TestHabitatSim:
    pytestmark = needs_habitat_sim

    @pytest.mark.parametrize("placement", [0, 1, 2, 3])
    def test_the_first_images_agree(self, both, placement):
        seen = [env.reset(options={"placement": placement})[0] for env in both]
        depths = [10 * observation["depth"][..., 0] for observation in seen]
        assert np.median(np.abs(depths[0] - depths[1])) <= 0.015, "the floor may be a cell's height too high"
        assert np.quantile(np.abs(depths[0] - depths[1]), 0.9) <= 0.05
        assert (seen[0]["semantic"] == seen[1]["semantic"]).mean() > 0.98
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

    def test_observations_fit_the_spaces(self, both):
        real, _ = both
        observation, _ = real.reset(options={"placement": 0})
        assert real.observation_space.contains(observation)

    def test_objects_are_as_bright_as_in_the_embedded_simulator(self, both):
        n_seen = 0
        for placement in range(4):
            for env in both:
                env.reset(options={"placement": placement})
            for placed in both[1].habitat_env.sim.placement.objects:
                images = []
                for env in both:
                    sim = env.habitat_env.sim
                    sim.set_agent_state([placed.view.x, 0.0, placed.view.z], placed.view.rotation)
                    sim.tilt_camera(placed.view.pitch)
                    images.append(sim.step(None))
                shown = np.logical_and(*(image["semantic"].squeeze() == placed.instance for image in images))
                if shown.sum() >= 10:
                    gaps = images[0]["rgb"][shown].astype(int) - images[1]["rgb"][shown].astype(int)
                    assert np.abs(np.median(gaps, axis=0)).max() <= 25, placed.type
                    n_seen += 1
        assert n_seen > 20

    def test_after_every_reset_objects_are_where_they_belong(self, both):
        real, _ = both
        for placement in (0, 0, 2):
            real.reset(options={"placement": placement})
            for _ in range(2):
                sim = real.habitat_env.sim
                manager = sim.get_rigid_object_manager()
                for object_id, placed in zip(sim._object_ids, sim.placement.objects, strict=True):
                    thing = manager.get_object_by_id(object_id)
                    np.testing.assert_allclose(np.array(thing.translation), placed.position, atol=1e-5)
                real.step(STOP)  # begins the next episode with a reset

    def test_the_agent_stands_on_the_floor_where_the_episode_begins(self, both):
        for placement in range(4):
            for env in both:
                env.reset(options={"placement": placement})
            real, ours = (env.habitat_env.sim.pose for env in both)
            assert abs(real.y - ours.y) <= 0.015
            np.testing.assert_allclose([real.x, real.z], [ours.x, ours.z], atol=0.02)

    def test_geodesic_distances_agree(self, both):
        rng = np.random.default_rng(0)
        distances = []
        for placement in range(4):
            for env in both:
                env.reset(options={"placement": placement})
            real, ours = (env.habitat_env.sim for env in both)
            for placed in ours.placement.objects:
                x, z = ours.navigator.sample(rng)
                start, goal = [x, 0.0, z], [placed.goal[0], 0.0, placed.goal[1]]
                distances.append((real.geodesic_distance(start, goal), ours.geodesic_distance(start, goal)))
        real, ours = np.array(distances).T
        assert np.isfinite(real).all()
        gaps = np.abs(real - ours)
        assert np.mean(gaps <= np.maximum(0.05 * ours, 0.15)) >= 0.95
        assert np.median(gaps) <= 0.10

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

    def test_a_missing_scene_dataset_is_named(self):
        with pytest.raises(UserError, match=r"env.scene_dataset='nowhere.json': must be a file"):
            HabitatTrials(simulator="habitat_sim", scene_dataset="nowhere.json", data_path="nowhere")

    def test_a_film_can_be_taken_where_no_sensor_shows_colours(self, both):
        folder = both[0].habitat_env.sim.habitat_config.scene_dataset.rpartition("/")[0]
        code = f"""
from memo_lightning.envs.object_navigation.batched import BatchedExtObjNav
from memo_lightning.envs.object_navigation.trial_image import CAMERA
options = dict(scene_dataset=DATASET, data_path={folder!r})
env = HabitatTrials(simulator="habitat_sim", sensors=("columns",), **options)
env.reset(seed=0)
rgb, _ = env.habitat_env.sim.look(CAMERA)
print(len(set(map(tuple, rgb.reshape(-1, 3).tolist()))))
env.close()
"""
        result = run_alone(both, code)
        assert result.returncode == 0, result.stderr
        assert int(result.stdout.split()[-1]) > 20

    def test_another_in_the_same_process_is_refused_in_one_line_while_one_is_open(self, both):
        code = """
from pathlib import Path
from memo_lightning.errors import UserError
options = dict(simulator="habitat_sim", scene_dataset=DATASET, data_path=str(Path(DATASET).parent))
first = HabitatTrials(**options)
try:
    HabitatTrials(**options)
except UserError as error:
    print(error)
first.close()
HabitatTrials(**options).close()
print("closed")
"""
        result = run_alone(both, code)
        assert result.returncode == 0, result.stderr
        assert "habitat-sim is already open in this process" in result.stdout
        assert result.stdout.split()[-1] == "closed"

    def test_check_env_checks_it(self, both):
        dataset = both[0].habitat_env.sim.habitat_config.scene_dataset
        folder = dataset.rpartition("/")[0]
        simulator = ["env=ext_objnav", "env.simulator=habitat_sim", f"env.scene_dataset={dataset}"]
        sizes = ["collector.n_envs=2", "algorithm.n_minibatches=2", "env.workers=2", "env.trial_length=40"]
        command = [
            sys.executable,
            "-m",
            "memo_lightning.cli.main",
            "check-env",
            *simulator,
            f"env.data_path={folder}",
            *sizes,
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr

    def test_a_refused_scene_leaves_no_stack_trace(self, both):
        code = """
from memo_lightning.envs.habitat.config import make_config
from memo_lightning.envs.habitat.habitat_sim_simulator import ExtObjNavSim
from memo_lightning.errors import UserError
from habitat.config import read_write
config = make_config(simulator="habitat_sim", scene_dataset=DATASET, data_path="x")
with read_write(config):
    config.habitat.simulator.scene, config.habitat.simulator.scene_dataset = "castle", DATASET
try:
    ExtObjNavSim(config.habitat.simulator)
except UserError as error:
    print(error)
"""
        result = run_alone(both, code)
        assert "scene='castle': must be in the folder of" in result.stdout
        assert "Traceback" not in result.stderr
        assert "__del__" not in result.stderr
