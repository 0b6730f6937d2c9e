import subprocess
import sys

import pytest

from memo_lightning.envs.habitat import import_habitat, shim
from memo_lightning.errors import UserError

habitat_sim_installed = "habitat_sim" in sys.modules


def run(code, *paths):
    return subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)


@pytest.mark.skipif(habitat_sim_installed, reason="is about machines without habitat-sim")
def test_placeholders_are_gone_after_the_import():
    import_habitat()
    for name in ("habitat_sim", "magnum", "corrade"):
        assert not [module for module in sys.modules if module.split(".")[0] == name]
        with pytest.raises(ModuleNotFoundError):
            __import__(name)


@pytest.mark.skipif(habitat_sim_installed, reason="is about machines without habitat-sim")
def test_the_real_simulator_says_what_to_install():
    habitat = import_habitat()
    for name in ("Sim-v0", "RearrangeSim-v0"):
        with pytest.raises(UserError, match="conda install habitat-sim"):
            habitat.registry.get_simulator(name)(config=None)


def test_an_installed_habitat_sim_is_used_and_not_replaced(tmp_path):
    (tmp_path / "habitat_sim.py").write_text("raise ImportError('this is the installed habitat-sim')")
    # Import only the shim, because the whole package takes seconds.
    code = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2])['import_habitat']()"
    result = run(code, str(tmp_path), shim.__file__)
    assert result.returncode != 0
    # habitat-lab may import magnum or habitat_sim first; neither may be replaced by a placeholder
    assert "this is the installed habitat-sim" in result.stderr or "No module named 'magnum'" in result.stderr


def test_the_measures_are_those_of_habitat_lab(env):
    for name in ("distance_to_goal", "success", "spl", "soft_spl"):
        assert type(env.task.measurements.measures[name]).__module__ == "habitat.tasks.nav.nav"
