"""Counter-based random numbers: SplitMix64 and independent streams."""

import torch

from memo_lightning.envs.random_streams import combine, draw_below, stream_keys

CPU = torch.device("cpu")


def splitmix64(state, n):
    """Return outputs of the published algorithm, computed with Python's unbounded integers."""
    mask, outputs = (1 << 64) - 1, []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        outputs.append(z ^ (z >> 31))
    return outputs


def test_numbers_are_those_of_splitmix64():
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]  # published first output for seed 0
    for seed in (0, 1, 2**62, -7):
        ours = combine(torch.tensor([seed] * 5), torch.arange(5))
        assert [number % (1 << 64) for number in ours.tolist()] == splitmix64(seed % (1 << 64), 5)


def test_streams_do_not_depend_on_how_many_there_are():
    assert torch.equal(stream_keys(3, 4, CPU), stream_keys(3, 9, CPU)[:4])
    assert not torch.equal(stream_keys(3, 4, CPU), stream_keys(4, 4, CPU))


def test_draws_are_uniform():
    counts = torch.bincount(draw_below(stream_keys(0, 60_000, CPU), torch.zeros(60_000, dtype=torch.int64), 6))
    assert counts.shape == (6,)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations
