import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
from memo_lightning import houses
for module in pkgutil.walk_packages(houses.__path__, houses.__name__ + "."):
    importlib.import_module(module.name)
print("\\n".join(sys.modules))
"""
HEAVY = {"torch", "tensordict", "torchrl", "lightning", "habitat", "gym", "gymnasium", "omegaconf", "hydra"}


def test_the_simulator_needs_neither_torch_nor_an_environment_library_nor_another_room():
    output = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    loaded = output.split()
    assert "memo_lightning.houses.ray_caster" in loaded
    assert not HEAVY & {name.split(".")[0] for name in loaded}
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.split(".")[0] == "memo_lightning"}
    small = {"memo_lightning.errors", "memo_lightning.wording", "memo_lightning.version"}
    assert ours == {"memo_lightning", "memo_lightning.houses", *small}
