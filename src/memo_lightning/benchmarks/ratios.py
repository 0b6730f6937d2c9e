"""Cost ratios between memories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """The ratio of a metric of one case to a metric of another.

    Attributes:
        name: description of the comparison.
        numerator: key of a case, and the name of its metric.
        denominator: key of the case it is divided by, and the name of its metric.
        cpu: name of the CPU time that corresponds to the metric, if there is one.
    """

    name: str
    numerator: tuple[str, str]
    denominator: tuple[str, str]
    cpu: str | None = None

    def of(self, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the ratio, or None if a metric is missing."""
        value = self._divide(cases, self.numerator[1], self.denominator[1])
        if value is None:
            return None
        by_cpu_time = self._divide(cases, self.cpu, self.cpu) if self.cpu else None
        return {"name": self.name, "value": value, "by_cpu_time": by_cpu_time}

    def _divide(self, cases: Mapping[str, Mapping[str, Any]], above: str, below: str) -> float | None:
        upper = cases.get(self.numerator[0], {}).get(above)
        lower = cases.get(self.denominator[0], {}).get(below)
        return None if upper is None or lower is None else upper / lower


_METRICS = {  # title of each metric, and the kind of case that has it
    "update_seconds": ("update time", "update"),
    "update_peak_bytes": ("update memory", "update"),
    "step_seconds": ("step time", "acting"),
    "state_bytes": ("state bytes", "acting"),
    "acting_peak_bytes": ("bytes that acting allocates", "acting"),
}


def _over_memo(metric: str, length: int, memory: str) -> Ratio:
    """Return the ratio of a memory's metric to Memo's, at one context length."""
    title, kind = _METRICS[metric]
    keys = (f"{kind}/{name}/{length}" for name in (memory, "memo"))
    cpu = "update_cpu_seconds" if metric == "update_seconds" else None
    return Ratio(f"{title} at {length:,}: {memory} / memo", (next(keys), metric), (next(keys), metric), cpu)


_RATIOS = (
    _over_memo("update_seconds", 4096, "full_context"),
    _over_memo("update_seconds", 8192, "full_context"),
    _over_memo("update_seconds", 32768, "full_context"),
    _over_memo("update_seconds", 8192, "memo_reencoding"),
    _over_memo("update_peak_bytes", 8192, "memo_checkpointed"),
    _over_memo("step_seconds", 32768, "full_context"),
    _over_memo("state_bytes", 32768, "full_context"),
    _over_memo("acting_peak_bytes", 32768, "full_context"),
    Ratio(
        "update time per token, memo: at 32,768 / at 2,048",
        ("update/memo/2048", "tokens_per_second"),
        ("update/memo/32768", "tokens_per_second"),
    ),
)


def ratios(cases: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all ratios whose metrics are among the ``cases`` of a benchmark."""
    found = [ratio.of(cases) for ratio in _RATIOS]
    for key, case in cases.items():
        if key.startswith("staggered/"):
            name = f"step of {case['memory']}: boundaries one by one / all together"
            found.append(Ratio(name, (key, "staggered_seconds"), (key, "lockstep_seconds")).of(cases))
        if key.startswith("streaming/") and "failed" not in case:
            after = f"after {case['old_steps']:,} / {case['young_steps']:,} steps"
            name = f"streaming {case['memory']}, state bytes {after}"
            found.append(Ratio(name, (key, "old_bytes"), (key, "young_bytes")).of(cases))
            name = f"streaming {case['memory']}, step {after}"
            found.append(Ratio(name, (key, "old_seconds"), (key, "young_seconds")).of(cases))
    return [ratio for ratio in found if ratio is not None]
