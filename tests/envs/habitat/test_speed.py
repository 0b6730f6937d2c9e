"""The speed of the embedded simulator per CPU second of one core; an idle machine is three to five times as fast."""

import subprocess
import sys

from memo_lightning.benchmarks.house_sim import engine_steps_per_second, frames_per_second, habitat_steps_per_second


def test_images_are_rendered_fast():
    assert frames_per_second(1000) >= 2000


def test_whole_habitat_steps_are_fast():
    assert habitat_steps_per_second(700) >= 700


def test_the_batched_engine_is_fast():
    rates = engine_steps_per_second(("columns",), n_rows=64, n_steps=50, n_runs=2)
    assert rates["per_core_second"] >= 15_000


def test_the_benchmark_can_be_imported_before_anything_else():
    subprocess.run([sys.executable, "-c", "import memo_lightning.benchmarks.house_sim"], check=True)
