"""The reported size of a memory is its peak size."""

from memo_lightning.models import LSTM, FullContextTransformer, MemoTransformer
from memo_lightning.models.memory_size import peak_memory_bytes


def test_an_lstm_holds_two_vectors_per_layer():
    assert peak_memory_bytes(LSTM(d_model=16, n_layers=2), 30) == 2 * 2 * 16 * 4


def test_full_context_grows_with_the_trial_and_memo_with_its_segments():
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 32}
    full = FullContextTransformer(**sizes)
    per_step = 2 * 2 * 16 * 4  # keys and values, layers, width, bytes
    assert peak_memory_bytes(full, 100) >= 100 * per_step
    memo = MemoTransformer(**sizes, segment_length=10, summary_length=2).train()
    # At the peak: nine summaries, the open segment without its last step (which is never read again), the newest
    # summary as written, and a few counters.
    written = 2 * 16 * 4
    assert (9 * 2 + 9) * per_step <= peak_memory_bytes(memo, 100) < (9 * 2 + 9 + 2) * per_step + written + 100
    assert memo.training, "left as it was"
