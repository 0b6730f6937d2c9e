"""How fast the embedded simulator is, in seconds of one core; an idle machine is three to five times as fast."""

from memo_lightning.benchmarks.house_sim import frames_per_second, habitat_steps_per_second


def test_pictures_are_rendered_fast():
    assert frames_per_second(1000) >= 2000


def test_whole_habitat_steps_are_fast():
    assert habitat_steps_per_second(700) >= 700
