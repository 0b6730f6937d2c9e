"""Memo: a transformer that writes summary tokens (arXiv 2510.19732, section 3)."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from memo_lightning.models.base import SequenceModel
from memo_lightning.models.kv_cache import KVCache
from memo_lightning.models.transformer import Transformer
from memo_lightning.models.trials import Trials


class MemoTransformer(SequenceModel):
    """A transformer whose memory of past segments is a few learned summary tokens per segment.

    A trial is cut into segments of L steps. After each complete segment, S learned queries read it (and all
    older summaries); their normed outputs are the segment's summary. Later steps attend to all summaries and
    to their own segment only. Summaries enter the transformer as input embeddings, accumulate, and are never
    rewritten; gradients flow through all of them.

    A summary's keys and values depend on older summaries only, and its position never changes; so they are
    computed once, with gradient, and reused by all later segments. The result is the same as encoding all
    summaries again with every segment, which the official implementation does, at a cost that grows linearly
    with the number of segments instead of quadratically.

    Args:
        d_model: width D; a multiple of ``n_heads``.
        n_layers: number of transformer blocks.
        n_heads: attention heads.
        d_ff: inner width of the gated MLP.
        segment_length: L, steps per segment.
        summary_length: S, summary tokens per segment; at most L.
        segment_jitter: in ``train()`` mode, ``forward`` draws one length uniformly from the integers within
            ``segment_jitter * L`` of L (paper: 0.2). Acting and ``eval()`` always use L.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of all RMSNorms.

    Raises:
        ValueError: if the sizes do not fit together.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int,
        n_heads: int,
        d_ff: int,
        segment_length: int,
        summary_length: int,
        segment_jitter: float = 0.2,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(d_model)
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")
        if not 1 <= summary_length <= segment_length:
            raise ValueError(
                f"summary_length={summary_length}: must be at least 1 and at most segment_length={segment_length}"
            )
        if not 0 <= segment_jitter < 1:
            raise ValueError(f"segment_jitter={segment_jitter}: must be at least 0 and below 1")
        self.segment_length, self.summary_length = segment_length, summary_length
        self.segment_jitter = segment_jitter
        self.transformer = Transformer(d_model, n_layers, n_heads, d_ff, rope_base, norm_eps)
        self.summary_queries = nn.Parameter(0.02 * torch.randn(summary_length, d_model))

    def forward(self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None) -> Tensor:
        """Process whole rows, segment by segment; see :meth:`SequenceModel.forward`.

        ``segment_length`` overrides the jitter of ``train()`` mode and the fixed length of ``eval()`` mode.
        """
        self.check_rows(x, is_init)
        if segment_length is None:
            segment_length = self.draw_segment_length() if self.training else self.segment_length
        if segment_length < 1:
            raise ValueError(f"segment_length={segment_length}: must be at least 1")

        trials = Trials((x.shape[0], x.shape[1]), is_init)
        context = SummaryContext()
        summary: Tensor | None = None
        outputs = []
        for segment in trials.chunks(segment_length):
            # The block is [newest summary | observations | queries]. Older summaries are there as keys and
            # values; the newest becomes keys and values in this same pass.
            context.keep_rows(segment.n_trials)
            tokens = [] if summary is None else [summary[: segment.n_trials]]
            tokens.append(trials.gather(x, segment))
            if not segment.is_last:
                tokens.append(self.summary_queries.to(x.dtype).expand(segment.n_trials, -1, -1))
            block = torch.cat(tokens, dim=1)
            positions = torch.arange(context.length, context.length + block.shape[1], device=x.device)
            y = self.transformer(block, positions, context)

            start = 0 if summary is None else self.summary_length
            outputs.append((segment, y[:, start : start + segment.length]))
            context.keep_tokens(start)
            summary = y[:, start + segment.length :]
        return trials.scatter(outputs)

    def draw_segment_length(self) -> int:
        """Draw a jittered segment length, uniform over the integers in ``[(1 - j) L, (1 + j) L]``."""
        spread = int(self.segment_jitter * self.segment_length)
        low, high = self.segment_length - spread, self.segment_length + spread
        return int(torch.randint(low, high + 1, ()))

    def init_state(self, batch_size: int) -> TensorDict:
        """Return an empty memory: keys and values per layer, tokens held, and steps in the open segment."""
        stack = self.transformer
        counters = torch.zeros(batch_size, dtype=torch.int64)
        buffers = KVCache.allocate(
            batch_size, stack.n_layers, stack.n_heads, self.segment_length, stack.head_dim, self.summary_queries
        )
        # The counters stay on the CPU: they decide what is run next, and reading them must not wait for a GPU.
        return TensorDict({**buffers, "length": counters, "open_steps": counters.clone()}, [batch_size])

    @torch.no_grad()
    def step(self, x_t: Tensor, state: TensorDict, is_init: Tensor | None = None) -> tuple[Tensor, TensorDict]:
        """Process one step of every row; see :meth:`SequenceModel.step`.

        The rows whose segment this step completes, whichever they are, then write their summary.
        """
        self.check_step(x_t, state, is_init)
        self._check_state(state)
        length, open_steps = state["length"], state["open_steps"]
        if is_init is not None:
            restarted = is_init.to(length.device)
            length.masked_fill_(restarted, 0)
            open_steps.masked_fill_(restarted, 0)

        y = self._run(x_t.unsqueeze(1), state, length)
        length += 1
        open_steps += 1
        at_boundary = open_steps == self.segment_length
        if at_boundary.any():
            self._summarise(state, at_boundary)
        return y.squeeze(1), state

    def _summarise(self, state: TensorDict, at_boundary: Tensor) -> None:
        """Replace the open segment of the rows ``at_boundary [B]`` by its summary."""
        rows = None if bool(at_boundary.all()) else at_boundary.nonzero().squeeze(1)
        length, open_steps = state["length"], state["open_steps"]
        ends = length[at_boundary]
        starts = ends - self.segment_length  # the open segment begins where the summaries end
        queries = self.summary_queries.expand(len(ends), -1, -1)
        summary = self._run(queries, state, ends, rows)  # reads the segment; its keys and values are scratch
        self._run(summary, state, starts, rows)  # overwrites the segment with the summary's keys and values
        length[at_boundary] = starts + self.summary_length
        open_steps.masked_fill_(at_boundary, 0)

    def _run(self, tokens: Tensor, state: TensorDict, slots: Tensor, rows: Tensor | None = None) -> Tensor:
        """Run ``tokens [b, t, D]`` of ``rows`` through all layers, storing them from ``slots [b]`` on."""
        cache = KVCache(state, growth=self.summary_length)
        cache.reserve(int(slots.max()) + tokens.shape[1])
        if rows is not None:
            rows = rows.to(tokens.device)
        writer = cache.writer(slots, rows, tokens.device)
        positions, mask = writer.positions_and_mask(tokens.shape[1])
        return self.transformer(tokens, positions, writer, mask)

    def _check_state(self, state: TensorDict) -> None:
        stack = self.transformer
        keys = state.get("keys", None)
        held = None if keys is None else (len(keys.keys()), keys["0"].shape[1], keys["0"].shape[3])
        expected = (stack.n_layers, stack.n_heads, stack.head_dim)
        if held != expected or "open_steps" not in state.keys():
            raise ValueError(
                f"state belongs to another model: it holds (layers, heads, head width) {held}, must be {expected}"
            )


class SummaryContext:
    """Keys and values of all summaries so far, differentiable; every pass sees them and, causally, itself."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~memo_lightning.models.transformer.Context`."""
        if layer == len(self._keys):  # the first pass: nothing is held yet
            self._keys.append(keys)
            self._values.append(values)
        else:
            self._keys[layer] = torch.cat([self._keys[layer], keys], dim=2)
            self._values[layer] = torch.cat([self._values[layer], values], dim=2)
        return self._keys[layer], self._values[layer]

    def keep_tokens(self, n_new: int) -> None:
        """After a pass: keep what was held before it and the first ``n_new`` tokens of the pass."""
        self.length += n_new
        self._keys = [keys[:, :, : self.length] for keys in self._keys]
        self._values = [values[:, :, : self.length] for values in self._values]

    def keep_rows(self, n_rows: int) -> None:
        """Keep the first ``n_rows`` rows."""
        self._keys = [keys[:n_rows] for keys in self._keys]
        self._values = [values[:n_rows] for values in self._values]
