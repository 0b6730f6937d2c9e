"""Training passes recorded as CUDA graphs.

A pass over whole sequences launches thousands of small kernels, and launching them takes the host longer than running
them takes the GPU. A CUDA graph launches all kernels of a forward pass, or of its backward pass, at once. It repeats
exactly what was recorded, with the current weights, which optimizers change in place.
"""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memo_lightning.models.base import PassSettings, SequenceModel

N_DRAWN_LENGTHS = 5  # different jittered segment lengths; each needs a recording
_N_KEPT = 8

Recording = Callable[[Tensor], Tensor]
"""A recorded pass: inputs ``[B, T, D]`` to outputs ``[B, T, D]``, which the next call may overwrite."""

Recorder = Callable[[SequenceModel, Tensor, PassSettings], Recording | None]
"""Records a pass of a model over inputs like those given; None if there is not enough memory."""


class RecordedPasses:
    """The passes of a model over whole sequences, recorded where they recur.

    A pass is recorded when its key comes for the second time. The key holds whatever decides the launches of kernels:
    shape and kind of the inputs, settings of the pass, autocast, mode and budget of the model, and where its weights
    lie. Three kinds of passes are never recorded or replayed: those with a trial that begins after the first step,
    those that draw their own settings, and those between a recorded pass and its backward pass, because recordings
    share their memory.

    Segment lengths are jittered in training. The model draws them from now on from :data:`N_DRAWN_LENGTHS` lengths.

    Gradients lie where the recording writes them. They must be set to None before every backward pass, as
    ``Optimizer.zero_grad()`` does, and not accumulate over several.

    Args:
        model: the model, whose :attr:`~SequenceModel.is_recordable` is true.
        record: records a pass.
        n_kept: number of recordings that are kept; the least recently used is dropped first.

    Raises:
        ValueError: if the model cannot be recorded.
    """

    def __init__(self, model: SequenceModel, record: Recorder | None = None, n_kept: int = _N_KEPT) -> None:
        if not model.is_recordable:
            raise ValueError(f"{type(model).__name__}: its passes cannot be recorded with these settings")
        self._model, self._record, self._n_kept = model, record or CUDARecorder(), n_kept
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._too_large: set[Hashable] = set()
        self._in_flight: weakref.ref[_Flight] | None = None
        model.draw_few_lengths(N_DRAWN_LENGTHS)

    def __call__(
        self, x: Tensor, is_init: Tensor | None = None, segment_length: int | None = None, **settings: Any
    ) -> Tensor:
        """Return the outputs of :meth:`SequenceModel.forward`."""
        if segment_length is None or self._awaits_backward():
            return self._model(x, is_init, segment_length, **settings)
        self._model.check_sequences(x, is_init)
        if is_init is not None and bool(is_init[:, 1:].any()):
            return self._model(x, is_init, segment_length, **settings)
        settings = {"segment_length": segment_length, **settings}
        recording = self._recording(x, settings)
        if recording is None:
            return self._model(x, None, **settings)
        y, flight = recording(x), _Flight()
        self._in_flight = weakref.ref(flight) if y.requires_grad else None
        return _Copy.apply(y, flight)

    @property
    def n_recordings(self) -> int:
        """The number of recordings that are kept now."""
        return len(self._recordings)

    def _recording(self, x: Tensor, settings: PassSettings) -> Recording | None:
        """Return the recording of such a pass; None if there is none yet, or none can be made."""
        key = self._key(x, settings)
        if key in self._recordings:
            self._recordings.move_to_end(key)
            return self._recordings[key]
        if key in self._too_large:
            return None
        if key not in self._seen:
            self._seen.add(key)
            return None
        if len(self._recordings) == self._n_kept:
            self._recordings.popitem(last=False)
        recording = self._record(self._model, x, settings)
        if recording is None:
            self._too_large.add(key)
        else:
            self._recordings[key] = recording
        return recording

    def _key(self, x: Tensor, settings: PassSettings) -> Hashable:
        """Return what decides the launches of a pass."""
        model, kind = self._model, x.device.type
        mixed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        weights = tuple((weight.data_ptr(), weight.requires_grad) for weight in model.parameters())
        chosen = tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in settings.items()))
        return (
            *(x.shape, x.dtype, x.device, x.requires_grad, torch.is_grad_enabled(), mixed, chosen),
            *(model.training, model.memory_budget, weights),
        )

    def _awaits_backward(self) -> bool:
        """Whether the graph of the latest recorded pass still exists and its backward pass has not run."""
        flight = None if self._in_flight is None else self._in_flight()
        return flight is not None and not flight.has_landed


class _Flight:
    """A recorded pass on its way to the backward pass, kept alive by autograd's graph alone."""

    has_landed = False


class _Copy(torch.autograd.Function):
    """Copy the outputs, which the next pass will overwrite, and note when their gradient arrives."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, flight: _Flight) -> Tensor:
        ctx.flight = flight
        return y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.flight.has_landed = True
        return gradients[0], None


class _Pass(nn.Module):
    """The passes of a model with fixed settings, over sequences of one trial each."""

    def __init__(self, model: SequenceModel, settings: PassSettings) -> None:
        super().__init__()
        self.model, self._settings = model, settings

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [B, T, D]`` to ``[B, T, D]``."""
        return self.model(x, None, **self._settings)


class CUDARecorder:
    """A recorder of CUDA graphs, one for the forward and one for the backward pass, in memory that all share."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, model: SequenceModel, x: Tensor, settings: PassSettings) -> Recording | None:
        """Record a pass; see :data:`Recorder`."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        _free_memory()
        stream = torch.cuda.current_stream(x.device)
        recording = self._try(model, x, settings)
        if recording is None:
            self._clean_up(stream)
            _free_memory()
            self._pool = None  # without a graph that uses it, torch would not take it again
        return recording

    def _try(self, model: SequenceModel, x: Tensor, settings: PassSettings) -> Recording | None:
        like = x.detach().clone().requires_grad_(x.requires_grad)
        mixed, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        try:
            # Without the cache: weights must be cast in the graph, as they change between its runs.
            with torch.autocast("cuda", mixed, enabled=enabled, cache_enabled=False):
                recorded = torch.cuda.make_graphed_callables(
                    _Pass(model, settings), (like,), allow_unused_input=True, pool=self._pool
                )
            return cast(Recording, recorded)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        return None  # after the handler, whose traceback holds the tensors

    def _clean_up(self, stream: torch.cuda.Stream) -> None:
        """Undo what torch leaves undone where a recording fails and ending it fails as well.

        ``torch.cuda.graph.__exit__`` then leaves the recording's stream as the current one, and
        ``CUDAGraph::capture_end`` leaves the allocator looking for tensors of the recording.
        """
        torch.cuda.set_stream(stream)
        end_allocation = getattr(torch._C, "_cuda_endAllocateToPool", None)
        if end_allocation is not None:
            with suppress(RuntimeError):  # usually it has ended already
                end_allocation(stream.device_index, self._pool)


def _free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out, even if ending the recording then failed as well."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__context__
    return False
