"""One colour per memory, the same in every plot."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

# Never change a colour: people recognise a memory by it across papers, pages and years.
_MEMORIES = {
    "memo": "#0072b2",
    "full_context": "#d55e00",
    "lstm": "#009e73",
    "rmt": "#cc79a7",
    "memoryless": "#7f7f7f",
    "gru": "#8fd14f",
    "retrieval": "#e6a700",
    "direct_kv": "#56b4e9",
    "autocompressor": "#882255",
    "no_iea": "#8c564b",
    "sliding_window": "#f2a07b",
    "memo_checkpointed": "#12355b",
    "memo_reencoding": "#7a5cff",
}
_OTHERS = (  # for memories that are not listed above
    *("#b8860b", "#00b5b5", "#e0115f", "#4b5d16", "#a65aff", "#ff8c69"),
    *("#2f8f4e", "#5b3a29", "#c7b446", "#e377c2", "#1f1f8f", "#93c5b0"),
)
REFERENCE = "#9a9a9a"  # for a reference other than another memory, e.g. the memory itself before training


def memory_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour ``#rrggbb`` for every memory in a plot.

    Bundled memories have fixed colours. The colour of any other name depends on the name alone. Only if two of them
    would look the same in one plot does the alphabetically later one get another.
    """
    names = list(dict.fromkeys(names))
    colours: dict[str, str] = {}
    for name in sorted(names):
        if name in _MEMORIES:
            colours[name] = _MEMORIES[name]
            continue
        first = zlib.crc32(name.encode()) % len(_OTHERS)
        candidates = [*_OTHERS[first:], *_OTHERS[:first]]
        colours[name] = next((c for c in candidates if c not in colours.values()), candidates[0])
    return {name: colours[name] for name in names}


def memory_colour(name: str) -> str:
    """Return the colour ``#rrggbb`` of a memory."""
    return memory_colours([name])[name]
