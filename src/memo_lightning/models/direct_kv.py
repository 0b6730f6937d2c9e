"""Memo without the second pass: the ``direct_kv`` ablation of its paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from memo_lightning.models.attention import LayerKeysValues
from memo_lightning.models.fixed_state import FixedCache, LayerTensors
from memo_lightning.models.kv_cache import KVCache
from memo_lightning.models.memo import MemoTransformer
from memo_lightning.models.summary_memory import SummaryMemory
from memo_lightning.models.trials import Chunk, Trials


class DirectKVTransformer(MemoTransformer):
    """Memo that remembers the keys and values that the summary queries had while reading their segment.

    Memo runs the queries' outputs through all layers again and remembers the keys and values of that second pass. Here
    there is no second pass, so layer 1 of the memory knows only the constant queries, and layer 2 only what one layer
    has read. One more rotation moves the keys to the positions of Memo's summaries, so that all tokens have the same
    positions as in Memo.

    The arguments are those of :class:`MemoTransformer`; ``max_summary_age`` and ``gradient_segments`` must be
    None.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def check_gradient_segments(self, gradient_segments: int) -> None:
        """Raise ``ValueError``: there are no summary tokens to detach."""
        raise ValueError(f"gradient_segments={gradient_segments}: must be None for {type(self).__name__}")

    def check_max_summary_age(self, max_summary_age: int, gradient_segments: int | None) -> None:
        """Raise ``ValueError``: the keys of the queries are moved to positions that are not limited."""
        raise ValueError(f"max_summary_age={max_summary_age}: must be None for {type(self).__name__}")

    def read_trials(
        self, x: Tensor, trials: Trials, segment_length: int, dropped: Sequence[int]
    ) -> list[tuple[Chunk, Tensor]]:
        """Return the outputs of every segment; see :meth:`SegmentedModel.read_trials`."""
        memory = SummaryMemory(trials.n_chunks(segment_length) * self.summary_length)
        outputs = []
        for n_segments, segment in enumerate(trials.chunks(segment_length)):
            memory.keep_rows(segment.n_trials)
            if self.max_summaries is not None:
                memory.keep_newest(self.max_summaries * self.summary_length)
            tokens = [trials.gather(x, segment)]
            if not segment.is_last:
                tokens.append(self.summary_queries.to(x.dtype).expand(segment.n_trials, -1, -1))
            y, queries = self.run_block(
                torch.cat(tokens, dim=1),
                self.first_position(n_segments),
                memory.view(),
                slice(segment.length, None),
                dropped,
            )
            outputs.append((segment, y[:, : segment.length]))
            memory.append([(self._move_keys(keys, segment.length), values) for keys, values in queries])
        return outputs

    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory, without room for a summary; see :meth:`MemoTransformer.init_state`."""
        state = super().init_state(batch_size)
        state["summary"] = state["summary"].new_zeros(batch_size, 0, self.d_model)
        return state

    def remember(self, state: TensorDict, rows: Tensor, summary: Tensor, of_queries: LayerKeysValues) -> None:
        """Keep the keys and values of the queries; see :meth:`MemoTransformer.remember`."""
        moved = [(self._move_keys(keys, self.segment_length), values) for keys, values in of_queries]
        cache = KVCache(state, self.transformer, growth=self.summary_length)
        cache.store(moved, state["length"][rows] - self.summary_length, rows)

    def _fixed_summary(
        self, keys: LayerTensors, values: LayerTensors, segments: Tensor
    ) -> tuple[LayerTensors, LayerTensors]:
        """Return the keys and values that summarise the open segment; see :meth:`MemoTransformer._fixed_summary`."""
        cache = FixedCache(keys, values, self.transformer)
        self._read_segment(cache, segments)
        of_queries, read = cache.newest(self.summary_length)
        return [self._move_keys(query_keys, self.segment_length) for query_keys in of_queries], read

    def _move_keys(self, keys: Tensor, distance: int) -> Tensor:
        """Return ``keys [..., d]``, moved to ``distance`` positions earlier."""
        return self.transformer.rotary.move(keys, torch.full((1,), -distance, device=keys.device))
