"""Metrics of a server, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Histogram:
    """Counts of values by range.

    Args:
        name: name of the metric.
        text: description of the metric.
        bounds: upper bounds of the ranges, ascending; one more range has no upper bound.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Number of values so far."""
        return sum(self._counts)

    def lines(self) -> list[str]:
        """Return the histogram as lines of the text format."""
        lines, so_far = _head(self._name, self._text, "histogram"), 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            so_far += count
            lines.append(f'{self._name}_bucket{{le="{bound}"}} {so_far}')
        return [*lines, f"{self._name}_sum {self.total}", f"{self._name}_count {so_far}"]


class Metrics:
    """Counters and histograms of a server.

    Attributes:
        requests: number of requests and messages by kind and status of the answer.
        steps: seconds from the arrival of each step to its answer.
        batches: number of steps in each batch.
        calls: seconds that the model takes for each batch.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.steps = Histogram("memo_step_seconds", "Time from the arrival of a step to its answer.", _SECONDS)
        self.batches = Histogram("memo_batch_steps", "Steps per batch.", _SIZES)
        self.calls = Histogram("memo_call_seconds", "Model time per batch.", _SECONDS)

    def text(self, gauges: Mapping[str, tuple[str, float]], counters: Mapping[str, tuple[str, float]]) -> str:
        """Return all metrics in the text format.

        Args:
            gauges: further gauges by name, each with its description and present value.
            counters: further counters, in the same form.
        """
        lines = _head("memo_requests_total", "Requests by kind and status.", "counter")
        for (kind, status), count in sorted(self.requests.items()):
            lines.append(f'memo_requests_total{{kind="{kind}",status="{status}"}} {count}')
        for histogram in (self.steps, self.batches, self.calls):
            lines += histogram.lines()
        for type_name, named in (("gauge", gauges), ("counter", counters)):
            for name, (text, value) in named.items():
                lines += [*_head(name, text, type_name), f"{name} {value:g}" if value % 1 else f"{name} {value:.0f}"]
        return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
