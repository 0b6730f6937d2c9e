"""The aims of the measurements, and whether they were reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Each aim: its title, the measurement, a key of the results, and the least (below: the most) it should be.
_LEAST = [
    ("update at 4k, width 256: official / memo", "update/width_256_at_4k", "memo_reencoding / memo", 5.0),
    ("update at 4k, width 768: official / memo", "update/width_768_at_4k", "memo_reencoding / memo", 5.0),
    ("update at 32k, width 256: full context / memo", "update/width_256_at_32k", "full_context / memo", 2.0),
    ("update at 32k, width 768: full context / memo", "update/width_768_at_32k", "full_context / memo", 2.0),
    ("model FLOPs of the card's peak, width 768", "utilisation/width_768", "of_data_sheet", 0.4),
]
_MOST = [
    ("acting step of 128 environments, memory alone, ms", "acting/memo_width_64", "step_ms", 1.0),
    ("acting step of 128 environments, policy, ms", "acting/policy_width_64", "step_ms", 1.0),
    ("acting step of 128 environments, recorded policy, ms", "recorded/policy_width_64", "step_ms", 1.0),
    ("host synchronisations of an acting step", "acting/policy_width_64", "synchronisations", 1),
    ("bytes of an update of features at the paper's size", "navigation/features", "peak_bytes", 80e9),
    ("bytes of one of images, in two minibatches", "navigation/images_of_half_the_sequences", "peak_bytes", 80e9),
    ("bytes of one of images, encoded in chunks", "navigation/images_in_chunks", "peak_bytes", 80e9),
]


def aims(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every aim with the measured value and whether it was reached; None if it was not measured."""
    rows = []
    for bounds, aimed in (("at least", _LEAST), ("at most", _MOST)):
        for title, measure, key, bound in aimed:
            result = results.get(measure, {})
            value = result.get(key)
            if isinstance(value, Mapping):  # counts by source line
                value = sum(value.values())
            reached = None if value is None else (value >= bound if bounds == "at least" else value <= bound)
            reached = False if result.get("fits") is False else reached
            rows.append({"name": title, "measured": value, "aim": f"{bounds} {bound:g}", "reached": reached})
    return rows
