"""What memories cost in proportion to one another, and what is aimed at."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt}


@dataclass(frozen=True)
class Ratio:
    """One figure of a case in proportion to one of another.

    Attributes:
        name: what is compared.
        numerator: key of a case, and the name of its figure.
        denominator: the same for what it is divided by.
        aim: comparison with the figure that is aimed at, e.g. ``(">=", 1.5)``.
        cpu: name of the CPU time that belongs to the figure, where it is a time.
    """

    name: str
    numerator: tuple[str, str]
    denominator: tuple[str, str]
    aim: tuple[str, float]
    cpu: str | None = None

    def of(self, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the ratio's row, or None where a figure is missing."""
        value = self._divide(cases, self.numerator[1], self.denominator[1])
        if value is None:
            return None
        sign, bound = self.aim
        return {
            "name": self.name,
            "value": value,
            "by_cpu_time": self._divide(cases, self.cpu, self.cpu) if self.cpu else None,
            "aim": f"{sign} {bound:g}",
            "reached": bool(_COMPARE[sign](value, bound)),
        }

    def _divide(self, cases: Mapping[str, Mapping[str, Any]], above: str, below: str) -> float | None:
        upper = cases.get(self.numerator[0], {}).get(above)
        lower = cases.get(self.denominator[0], {}).get(below)
        return None if upper is None or lower is None else upper / lower


def _same(name: str, figure: str, above: str, below: str, aim: tuple[str, float], cpu: str | None = None) -> Ratio:
    return Ratio(name, (above, figure), (below, figure), aim, cpu)


_UPDATE, _UPDATE_CPU = "update_seconds", "update_cpu_seconds"
_RATIOS = (
    *(
        _same(
            f"update at {length:,}: full_context / memo",
            _UPDATE,
            f"update/full_context/{length}",
            f"update/memo/{length}",
            aim,
            _UPDATE_CPU,
        )
        for length, aim in ((4096, (">", 1.0)), (8192, (">=", 1.5)), (32768, (">=", 2.5)))
    ),
    _same(
        "update at 8,192: memo_reencoding / memo",
        _UPDATE,
        "update/memo_reencoding/8192",
        "update/memo/8192",
        (">=", 3.0),
        _UPDATE_CPU,
    ),
    _same(
        "update FLOPs at 8,192: memo_reencoding / memo",
        "update_flops",
        "update/memo_reencoding/8192",
        "update/memo/8192",
        (">=", 3.0),
    ),
    Ratio(
        "update time per token, memo: 2,048 / 32,768 in tokens/s",
        ("update/memo/2048", "tokens_per_second"),
        ("update/memo/32768", "tokens_per_second"),
        ("<=", 2.4),
    ),
    _same(
        "update memory at 8,192: memo_checkpointed / memo",
        "update_peak_bytes",
        "update/memo_checkpointed/8192",
        "update/memo/8192",
        ("<=", 0.4),
    ),
    _same(
        "step after 32,768: full_context / memo",
        "step_seconds",
        "acting/full_context/32768",
        "acting/memo/32768",
        (">=", 5.0),
        "step_cpu_seconds",
    ),
    _same(
        "state bytes at 32,768: full_context / memo",
        "state_bytes",
        "acting/full_context/32768",
        "acting/memo/32768",
        (">=", 7.3),
    ),
    _same(
        "bytes that acting allocates at 32,768: full_context / memo",
        "acting_peak_bytes",
        "acting/full_context/32768",
        "acting/memo/32768",
        (">=", 7.3),
    ),
)


def ratios(cases: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all ratios whose figures the ``cases`` of one benchmark hold."""
    found = [ratio.of(cases) for ratio in _RATIOS]
    for key, case in cases.items():
        if key.startswith("staggered/"):
            name = f"step of {case['memory']}: boundaries one by one / all together"
            found.append(Ratio(name, (key, "staggered_seconds"), (key, "lockstep_seconds"), ("<=", 1.3)).of(cases))
        if key.startswith("streaming/") and "failed" not in case:
            after = f"after {case['old_steps']:,} / {case['young_steps']:,} steps"
            name = f"streaming {case['memory']}, state bytes {after}"
            found.append(Ratio(name, (key, "old_bytes"), (key, "young_bytes"), ("<=", 1.0)).of(cases))
            name = f"streaming {case['memory']}, step {after}"
            found.append(Ratio(name, (key, "old_seconds"), (key, "young_seconds"), ("<=", 1.1)).of(cases))
    return [row for row in found if row is not None]
