"""Each memory keeps its colour, whatever else a plot shows."""

import subprocess
import sys
from itertools import combinations

import numpy as np
from matplotlib.colors import to_rgb

from memo_lightning.config import group_options
from memo_lightning.evaluation.colours import REFERENCE, memory_colour, memory_colours

SHIPPED = ["memo", *(name for name in group_options("baseline") if name not in ("none", "custom"))]


def in_lab(colour):
    """Return CIE L*a*b* values, whose distances match human perception (2.3 is just noticeable)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_memories_that_ship_have_the_colours_that_they_always_had():
    assert memory_colours(["lstm", "memo", "full_context"]) == {
        "lstm": "#009e73",
        "memo": "#0072b2",
        "full_context": "#d55e00",
    }


def test_every_memory_that_ships_is_told_from_all_others():
    colours = {**memory_colours(SHIPPED), "reference": REFERENCE}
    for one, other in combinations(colours, 2):
        if {one, other} != {"memoryless", "reference"}:
            assert np.linalg.norm(in_lab(colours[one]) - in_lab(colours[other])) > 20, (one, other)


def test_an_unknown_memory_has_a_colour_by_its_name_in_every_process():
    code = "from memo_lightning.evaluation.colours import memory_colour; print(memory_colour('MyMemory'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == memory_colour("MyMemory") == memory_colours(["memo", "MyMemory"])["MyMemory"]
    assert memory_colour("MyMemory") not in memory_colours(SHIPPED).values()


def test_unknown_memories_of_one_plot_are_told_apart():
    names = [f"algorithm.n_epochs={n}" for n in range(12)]
    assert len(set(memory_colours(names).values())) == 12
