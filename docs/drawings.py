"""The drawings of the documentation, as SVG: `python docs/from_results.py` writes them into `docs/images/drawings/`.

Each is 560 units wide with letters of 16, to be legible on a phone, and has a white ground of its own, to be
legible on a dark page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 560
INK, FAINT, LINE = "#1a1a1a", "#555555", "#8a8a8a"
BLUE, LIGHT_BLUE = "#0072b2", "#cfe5f3"  # observations; Memo's colour in all plots
ORANGE, LIGHT_ORANGE = "#d55e00", "#fbdcc4"  # summaries
GREEN, LIGHT_GREEN = "#007a5a", "#cdeee2"  # success
GREY = "#ececec"


class Drawing:
    """An SVG that is put together from rectangles, text and arrows."""

    def __init__(self, height: int, title: str) -> None:
        self.height, self.title, self._parts = height, title, list[str]()

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str | None = None, dashed: bool = False
    ) -> None:
        """Draw a rectangle."""
        line = f' stroke="{edge}" stroke-width="1.5"' if edge else ""
        line += ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}"{line}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
        size: int = 16,
        upright: bool = False,
    ) -> None:
        """Write one line, its base at ``y``; ``upright`` turns it to read from below."""
        weight = ' font-weight="bold"' if bold else ""
        weight += f' transform="rotate(-90 {x:g} {y:g})"' if upright else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def arrow(self, *points: tuple[float, float], colour: str = INK) -> None:
        """Draw a line through the points, with a head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" marker-end="url(#head)"/>'
        )

    def line(self, x: float, y: float, to_x: float, to_y: float, colour: str = LINE) -> None:
        """Draw a thin line."""
        self._parts.append(
            f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{colour}" stroke-width="1.5"/>'
        )

    def svg(self) -> str:
        """Return the file."""
        head = '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" font-family="system-ui, sans-serif" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<defs>{head}<path d="M0,0 L10,5 L0,10 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{WIDTH}" height="{self.height}" rx="6" fill="#ffffff"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def trial() -> Drawing:
    """A trial of five episodes, and what the memory spans."""
    drawing = Drawing(330, "A trial is a sequence of episodes of one task; memory spans the trial")
    drawing.text(20, 32, "One trial: five episodes of the same task", bold=True)
    left, widths = 20.0, (112, 112, 104, 72, 64)
    for number, width in enumerate(widths, 1):
        found = number > 2
        drawing.box(left, 50, width - 6, 54, LIGHT_GREEN if found else GREY, GREEN if found else LINE)
        drawing.text(left + (width - 6) / 2, 74, f"{number}", anchor="middle", bold=True)
        drawing.text(
            left + (width - 6) / 2,
            96,
            "success" if width > 80 and found else ("" if found else "time is up"),
            FAINT,
            "middle",
            size=14,
        )
        left += width
    drawing.box(486, 50, 54, 54, "#ffffff", LINE, dashed=True)
    drawing.text(513, 74, "new", FAINT, "middle", size=14)
    drawing.text(513, 94, "task", FAINT, "middle", size=14)
    drawing.text(20, 136, "The agent searches in episodes 1 to 3. Then it knows", FAINT)
    drawing.text(20, 158, "the way, and episodes are short: it learned in context.", FAINT)
    drawing.text(20, 202, "Memory", bold=True)
    drawing.box(20, 214, 458, 34, LIGHT_BLUE, BLUE)
    drawing.text(249, 237, "kept across episodes", BLUE, "middle")
    drawing.box(486, 214, 54, 34, "#ffffff", BLUE, dashed=True)
    drawing.text(513, 237, "empty", BLUE, "middle", size=14)
    drawing.text(20, 290, "Steps", bold=True)
    drawing.arrow((80, 284), (540, 284))
    drawing.line(482, 50, 482, 292)
    drawing.text(478, 312, "the trial ends", FAINT, "middle")
    return drawing


def segments() -> Drawing:
    """What a step of the third segment reads, in Memo and in a full-context transformer."""
    drawing = Drawing(486, "Memo reads summaries and its own segment; full context reads every step")
    drawing.text(20, 32, "Memo writes summaries", bold=True)
    for k in range(3):
        left = 20 + 178 * k
        drawing.text(left, 60, f"segment {k + 1}", FAINT)
        n_seen = 8 if k < 2 else 5
        for step in range(n_seen):
            last = k == 2 and step == n_seen - 1
            drawing.box(left + 14 * step, 70, 11, 30, BLUE if last else LIGHT_BLUE, BLUE)
        if k < 2:
            for token in range(2):
                drawing.box(left + 118 + 18 * token, 70, 15, 30, LIGHT_ORANGE, ORANGE)
            drawing.arrow((left + 134, 106), (left + 134, 150))
    drawing.text(20, 128, "8 steps", FAINT)
    drawing.text(444, 128, "now", BLUE, "middle")
    drawing.arrow((437, 134), (437, 146))
    drawing.text(20, 183, "this step reads", FAINT)
    drawing.box(150, 154, 390, 46, "#ffffff", LINE)
    for token in range(4):
        drawing.box(162 + 18 * token, 162, 15, 30, LIGHT_ORANGE, ORANGE)
    for step in range(5):
        drawing.box(246 + 14 * step, 162, 11, 30, BLUE if step == 4 else LIGHT_BLUE, BLUE)
    drawing.text(336, 183, "9 tokens", INK)
    drawing.text(20, 228, "Closed segments are dropped; their summaries stay.", FAINT)
    drawing.line(20, 254, 540, 254)
    drawing.text(20, 290, "A full-context transformer keeps every step", bold=True)
    for step in range(21):
        drawing.box(20 + 14 * step, 306, 11, 30, BLUE if step == 20 else LIGHT_BLUE, BLUE)
    drawing.text(330, 327, "21 tokens, and growing", INK, size=15)
    drawing.line(20, 366, 540, 366)
    drawing.text(20, 402, "Legend", bold=True)
    drawing.box(20, 418, 11, 30, LIGHT_BLUE, BLUE)
    drawing.text(42, 439, "a step (observation)", FAINT)
    drawing.box(230, 418, 15, 30, LIGHT_ORANGE, ORANGE)
    drawing.text(256, 439, "a summary token", FAINT)
    drawing.text(20, 472, "Here L = 8 steps per segment and S = 2 summary tokens.", FAINT)
    return drawing


def streaming() -> Drawing:
    """A memory with a budget, which drops the oldest summaries."""
    drawing = Drawing(264, "With a budget the oldest summaries are dropped")
    drawing.text(20, 32, "memory_budget: the newest tokens are kept", bold=True)
    for token in range(12):
        gone = token < 4
        drawing.box(
            (12 if gone else 20) + 30 * token,
            58,
            24,
            40,
            "#ffffff" if gone else LIGHT_ORANGE,
            LINE if gone else ORANGE,
            gone,
        )
    for step in range(5):
        drawing.box(386 + 26 * step, 58, 20, 40, LIGHT_BLUE, BLUE)
    drawing.text(12, 126, "dropped", FAINT)
    drawing.text(140, 126, "summaries", ORANGE)
    drawing.text(386, 126, "open segment", BLUE)
    drawing.box(134, 48, 390, 60, "none", INK, dashed=True)
    drawing.text(20, 172, "The box never grows, so a step costs the same after a", FAINT)
    drawing.text(20, 194, "thousand steps as after a million. What drops out on the", FAINT)
    drawing.text(20, 216, "left is forgotten. This is called streaming.", FAINT)
    drawing.text(20, 246, "time", FAINT)
    drawing.arrow((64, 241), (540, 241))
    return drawing


def data_flow() -> Drawing:
    """From environments to weights and back."""
    drawing = Drawing(520, "Experience flows from the collector to the algorithm; weights flow back")
    boxes = (
        (20, "Collector", "steps N environments; the policy acts", "and holds one memory for each", GREY),
        (128, "Rollout", "[environments, steps]: observations,", "actions, rewards, ends - but no memory", LIGHT_BLUE),
        (236, "Algorithm", "PPO, or actor-critic with a replay:", "targets, losses, optimizer", GREY),
        (
            344,
            "Sequence model",
            "runs once over whole sequences, with",
            "gradient: recomputes the memory",
            LIGHT_ORANGE,
        ),
    )
    for top, name, first, second, fill in boxes:
        drawing.box(90, top, 380, 84, fill, LINE)
        drawing.text(106, top + 26, name, bold=True)
        drawing.text(106, top + 50, first, FAINT)
        drawing.text(106, top + 71, second, FAINT)
        if top > 20:
            drawing.arrow((280, top - 24), (280, top - 2))
    drawing.arrow((470, 386), (520, 386), (520, 62), (474, 62))
    drawing.text(544, 236, "new weights", FAINT, "middle", upright=True)
    drawing.text(20, 466, "A LightningModule drives the loop. A Lightning callback swaps", FAINT)
    drawing.text(20, 488, "the sequence model before anything is built around it.", FAINT)
    return drawing


def layers() -> list[list[str]]:
    """Return the packages by layer, the highest first, as the contract in `pyproject.toml` has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip().removeprefix("memo_lightning.") for name in layer.split("|")] for layer in contract["layers"]]


def rooms() -> Drawing:
    """The packages in their layers, read off the contract that `lint-imports` checks."""
    rows = list(layers())
    drawing = Drawing(70 + 46 * len(rows) + 34, "Packages by layer; imports go downwards only")
    drawing.text(20, 32, "An import may go down, never up", bold=True)
    top = 50.0
    packages = {path.parent.name for path in (ROOT / "src/memo_lightning").glob("*/__init__.py")}
    for names in rows:
        width = 500 / len(names)
        for number, name in enumerate(names):
            is_package = name in packages
            drawing.box(
                50 + width * number,
                top,
                width - 6,
                38,
                LIGHT_BLUE if is_package else GREY,
                BLUE if is_package else LINE,
            )
            drawing.text(
                50 + width * number + (width - 6) / 2,
                top + 25,
                name,
                anchor="middle",
                size=16 if len(names) < 4 else 15,
            )
        top += 46
    drawing.arrow((30, 54), (30, top - 10))
    drawing.text(50, top + 22, "Blue: packages. Grey: single modules.", FAINT)
    return drawing


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "trial": trial,
    "segments": segments,
    "streaming": streaming,
    "data_flow": data_flow,
    "rooms": rooms,
}


def drawn() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every file."""
    for name, draw in DRAWINGS.items():
        yield f"{name}.svg", draw().svg()


def write_drawings(folder: Path) -> None:
    """Write all drawings into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in drawn():
        (folder / name).write_text(text)
