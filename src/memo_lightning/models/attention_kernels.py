"""Attention to one part of the visible tokens, with its log-sum-exp: torch's fused operators behind one interface.

Softmax attention over several parts is the mean of the parts' own outputs, weighted by their log-sum-exps. In the
backward pass, a part needs only the output and log-sum-exp of the whole attention (as in ring attention, Liu et al.
2023, arXiv 2310.01889, and torch's context parallelism).

The operators are private to torch. They are looked up on first use, and checked by the arguments that the installed
torch declares. If one is missing or takes other arguments, the next one replaces it; plain matrix products are the last
resort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Operator = Callable[..., Any]

_HALF = (torch.bfloat16, torch.float16)
_FLASH = "_scaled_dot_product_flash_attention"
_EFFICIENT = "_scaled_dot_product_efficient_attention"
_ATTENTION = ("query", "key", "value")
_OF_WHOLE = (*_ATTENTION, "out", "logsumexp")
_SEED = ("philox_seed", "philox_offset")


class Part(NamedTuple):
    """The attention output over some of the tokens that the queries see.

    Attributes:
        output: ``[B, H, t, d]``.
        log_sum: log-sum-exp of the scores ``[B, H, >= t]``, at least float32; entries beyond t are padding.
    """

    output: Tensor
    log_sum: Tensor


def merge(far: Part, near: Part) -> Part:
    """Return the attention output over both parts, which must come from the same kernel."""
    log_sum = torch.logaddexp(far.log_sum, near.log_sum)
    weight = (near.log_sum - log_sum)[..., : near.output.shape[2]].exp_().unsqueeze(-1)
    output = torch.lerp(far.output, near.output, weight.to(far.output.dtype).expand_as(far.output))
    return Part(output, log_sum)


class Kernel(Protocol):
    """Attention of queries ``[B, H, t, d]`` to one part: keys and values ``[B, H, k, d]``.

    If ``is_causal``, k equals t and query i sees the keys up to i. Scores are scaled by ``d ** -0.5``.
    """

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> Part:
        """Return the attention output over the part."""
        ...

    def backward(
        self, gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, whole: Part, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return this part's gradients with respect to queries, keys and values.

        Args:
            gradient: gradient with respect to the output of the whole attention, ``[B, H, t, d]``.
            queries: as given to :meth:`forward`, like ``keys``, ``values`` and ``is_causal``.
            keys: ``[B, H, k, d]``.
            values: ``[B, H, k, d]``.
            whole: output and log-sum-exp over all parts, the latter with this kernel's padding.
            is_causal: as in :meth:`forward`.
        """
        ...


def kernel_for(queries: Tensor) -> Kernel:
    """Return the fastest kernel available for the device, dtype and head width of ``queries [B, H, t, d]``."""
    return _choose(queries.device, queries.dtype, queries.shape[-1])


@cache
def _choose(device: torch.device, dtype: torch.dtype, head_dim: int) -> Kernel:
    """Return the kernel for these inputs.

    The memory-efficient operator requires a head width that is a multiple of 16 bytes.
    """
    kernel: Kernel | None = None
    if device.type == "cpu":
        kernel = CPUFlashKernel.found()
    elif device.type == "cuda":
        if _flash_serves(device, dtype, head_dim):
            kernel = FlashKernel.found()
        if kernel is None and dtype in (*_HALF, torch.float32) and head_dim * dtype.itemsize % 16 == 0:
            kernel = EfficientKernel.found()
    return MathKernel() if kernel is None else kernel


def flash_serves(queries: Tensor) -> bool:
    """Return whether torch's flash kernels on CUDA support ``queries [B, H, t, d]``.

    The conditions are those of torch itself (``sdp_utils.cpp`` in its source): bfloat16 or float16, a head width that
    is a multiple of 8 and at most 256, and compute capability 8.0 or higher.
    """
    return _flash_serves(queries.device, queries.dtype, queries.shape[-1])


def _flash_serves(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    fits = device.type == "cuda" and dtype in _HALF and head_dim % 8 == 0 and head_dim <= 256
    return fits and _compute_capability(device) >= (8, 0)


def _compute_capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def find_operator(name: str, arguments: Sequence[str], results: Sequence[str] = ()) -> Operator | None:
    """Return torch's operator ``aten::name``; None if it is missing or has another signature.

    Args:
        name: name of the operator, whose default overload is used.
        arguments: names of its first arguments, in order; all others must have default values.
        results: names of its first results, in order.
    """
    operator = getattr(getattr(torch.ops.aten, name, None), "default", None)
    if operator is None:
        return None
    schema = operator._schema
    taken, given = schema.arguments, schema.returns
    fits = (
        [argument.name.rstrip("_") for argument in taken[: len(arguments)]] == list(arguments)
        and all(argument.has_default_value() for argument in taken[len(arguments) :])
        and [result.name for result in given[: len(results)]] == list(results)
    )
    return operator if fits else None


class _Operators:
    """A kernel built from two torch operators.

    Args:
        forward: torch's forward operator.
        backward: torch's operator for its gradients.
    """

    def __init__(self, forward: Operator, backward: Operator) -> None:
        self._forward, self._backward = forward, backward


class CPUFlashKernel(_Operators):
    """Flash attention on the CPU, in every floating-point dtype."""

    @classmethod
    def found(cls) -> CPUFlashKernel | None:
        """Return the kernel; None if this torch lacks it or gives it another signature."""
        name = f"{_FLASH}_for_cpu"
        forward = find_operator(name, (*_ATTENTION, "dropout_p", "is_causal"), ("output", "logsumexp"))
        backward = find_operator(f"{name}_backward", ("grad_out", *_OF_WHOLE, "dropout_p", "is_causal"))
        return None if forward is None or backward is None else cls(forward, backward)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> Part:
        """See :meth:`Kernel.forward`."""
        return Part(*self._forward(queries, keys, values, 0.0, is_causal))

    def backward(
        self, gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, whole: Part, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Kernel.backward`."""
        return self._backward(gradient, queries, keys, values, *whole, 0.0, is_causal)


class FlashKernel(_Operators):
    """Flash attention on CUDA (Dao 2023, arXiv 2307.08691), in bfloat16 and float16."""

    @classmethod
    def found(cls) -> FlashKernel | None:
        """Return the kernel; None if this torch lacks it or gives it another signature."""
        forward = find_operator(_FLASH, (*_ATTENTION, "dropout_p", "is_causal"), ("output", "logsumexp"))
        lengths = ("cum_seq_q", "cum_seq_k", "max_q", "max_k")
        backward = find_operator(
            f"{_FLASH}_backward", ("grad_out", *_OF_WHOLE, *lengths, "dropout_p", "is_causal", *_SEED)
        )
        return None if forward is None or backward is None else cls(forward, backward)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> Part:
        """See :meth:`Kernel.forward`."""
        output, log_sum, *_ = self._forward(queries, keys, values, 0.0, is_causal)
        return Part(output, log_sum)

    def backward(
        self, gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, whole: Part, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Kernel.backward`."""
        lengths = (None, None, queries.shape[2], keys.shape[2])  # all sequences have the same length
        seed = _unused_seed(queries, torch.uint64)
        return self._backward(gradient, queries, keys, values, *whole, *lengths, 0.0, is_causal, *seed)


class EfficientKernel(_Operators):
    """Memory-efficient attention on CUDA (Rabe and Staats 2021, arXiv 2112.05682, as in xFormers), also in float32.

    Its log-sum-exps are padded to multiples of 32 queries.
    """

    @classmethod
    def found(cls) -> EfficientKernel | None:
        """Return the kernel; None if this torch lacks it or gives it another signature."""
        forward = find_operator(
            _EFFICIENT,
            (*_ATTENTION, "attn_bias", "compute_log_sumexp", "dropout_p", "is_causal"),
            ("output", "log_sumexp"),
        )
        inputs = (*_ATTENTION, "attn_bias", "out", "logsumexp")
        backward = find_operator(
            f"{_EFFICIENT}_backward", ("grad_out", *inputs, *_SEED, "dropout_p", "grad_input_mask", "is_causal")
        )
        return None if forward is None or backward is None else cls(forward, backward)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> Part:
        """See :meth:`Kernel.forward`."""
        output, log_sum, *_ = self._forward(queries, keys, values, None, True, 0.0, is_causal)
        return Part(output, log_sum)

    def backward(
        self, gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, whole: Part, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Kernel.backward`."""
        # The kernel assumes the output's strides between tokens to be those of a contiguous [B, t, H, d].
        output = whole.output.transpose(1, 2).contiguous().transpose(1, 2)
        seed, wanted = _unused_seed(queries, torch.int64), [True, True, True, False]
        result = self._backward(
            gradient, queries, keys, values, None, output, whole.log_sum, *seed, 0.0, wanted, is_causal
        )
        return result[0], result[1], result[2]


class MathKernel:
    """Attention by plain matrix products on any device: the reference and the last resort.

    It computes in at least float32, even under autocast, and holds all scores of a part at once.
    """

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, is_causal: bool) -> Part:
        """See :meth:`Kernel.forward`."""
        with torch.autocast(queries.device.type, enabled=False):
            scores = self._scores(queries, keys, is_causal)
            log_sum = scores.logsumexp(-1)
            output = (scores - log_sum.unsqueeze(-1)).exp_() @ values.to(scores.dtype)
        return Part(output.to(queries.dtype), log_sum)

    def backward(
        self, gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, whole: Part, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Kernel.backward`."""
        with torch.autocast(queries.device.type, enabled=False):
            scores = self._scores(queries, keys, is_causal)
            weights = (scores - whole.log_sum.unsqueeze(-1)).exp_()
            wide = gradient.to(scores.dtype)
            shared = (wide * whole.output).sum(-1, keepdim=True)
            of_scores = weights * (wide @ values.to(scores.dtype).mT - shared) * queries.shape[-1] ** -0.5
            return (
                (of_scores @ keys.to(scores.dtype)).to(queries.dtype),
                (of_scores.mT @ queries.to(scores.dtype)).to(keys.dtype),
                (weights.mT @ wide).to(values.dtype),
            )

    @staticmethod
    def _scores(queries: Tensor, keys: Tensor, is_causal: bool) -> Tensor:
        """Return scores ``[B, H, t, k]``, in at least float32; minus infinity where a key is not seen."""
        dtype = torch.promote_types(queries.dtype, torch.float32)
        scores = queries.to(dtype) @ keys.to(dtype).mT * queries.shape[-1] ** -0.5
        if is_causal:
            unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
            scores = scores.masked_fill_(unseen, -torch.inf)
        return scores


def _unused_seed(like: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return placeholders for the seed and offset of dropout, which operators read only if there is dropout."""
    return like.new_empty(2, dtype=dtype), like.new_empty(0, dtype=dtype)
