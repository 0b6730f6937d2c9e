"""The furniture of a house: what each piece looks like and where objects can stand on it.

Every piece is described once, with its back against a wall: x along the wall from 0 to ``width``, z away from
the wall from 0 to ``depth``, y up, all in integer centimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

from memo_lightning.houses.shapes import Colour, Paint

OAK: Colour = (168, 122, 74)
WALNUT: Colour = (98, 66, 44)
WHITE: Colour = (226, 226, 220)
STEEL: Colour = (150, 155, 160)
BLACK: Colour = (34, 34, 38)


@dataclass(frozen=True)
class Part:
    """A box of a piece of furniture: x0, y0, z0, x1, y1, z1 in centimetres, and its paint."""

    box: tuple[int, int, int, int, int, int]
    paint: Paint


@dataclass(frozen=True)
class Surface:
    """A level surface on which objects can stand.

    Args:
        area: x0, z0, x1, z1 in centimetres.
        height: height of the surface above the floor, centimetres.
        clearance: free height above it, centimetres.
    """

    area: tuple[int, int, int, int]
    height: int
    clearance: int


@dataclass(frozen=True)
class Furniture:
    """One kind of furniture; ``width`` and ``depth`` are its footprint, which blocks the agent."""

    name: str
    width: int
    depth: int
    parts: tuple[Part, ...]
    surfaces: tuple[Surface, ...] = ()
    in_the_middle: bool = False

    @property
    def height(self) -> int:
        """Height of the highest part, centimetres."""
        return max(part.box[4] for part in self.parts)


_OPEN = 120  # clearance of a surface with nothing above it


def _table(name: str, width: int, depth: int, height: int, colour: Colour, in_the_middle: bool) -> Furniture:
    wood = Paint(colour, tuple(int(c * 0.85) for c in colour), "planks", 0.12)  # type: ignore[arg-type]
    legs = tuple(
        Part((x, 0, z, x + 6, height - 4, z + 6), Paint(colour)) for x in (2, width - 8) for z in (2, depth - 8)
    )
    top = Part((0, height - 4, 0, width, height, depth), wood)
    surface = Surface((0, 0, width, depth), height, _OPEN)
    return Furniture(name, width, depth, (top, *legs), (surface,), in_the_middle)


def _chest(name: str, width: int, depth: int, height: int, paint: Paint, top: Colour | None) -> Furniture:
    """Build a closed block; with a ``top`` plate, objects can stand on it."""
    if top is None:
        return Furniture(name, width, depth, (Part((0, 0, 0, width, height, depth), paint),))
    parts = (
        Part((1, 0, 0, width - 1, height - 4, depth - 2), paint),
        Part((0, height - 4, 0, width, height, depth), Paint(top)),
    )
    return Furniture(name, width, depth, parts, (Surface((0, 0, width, depth), height, _OPEN),))


def _bookshelf() -> Furniture:
    paint = Paint(OAK, WALNUT, "planks", 0.1)
    width, depth, boards = 100, 35, (10, 50, 90, 130)
    sides = (Part((0, 0, 0, 4, 170, depth), paint), Part((width - 4, 0, 0, width, 170, depth), paint))
    back = Part((4, 0, 0, width - 4, 170, 2), Paint(WALNUT))
    shelves = tuple(Part((4, y - 3, 2, width - 4, y, depth), paint) for y in (*boards, 170))
    surfaces = tuple(Surface((4, 2, width - 4, depth), y, 36) for y in boards)
    return Furniture("bookshelf", width, depth, (*sides, back, *shelves), surfaces)


def _seat(name: str, width: int, colour: Colour) -> Furniture:
    cloth, darker = Paint(colour), Paint(tuple(int(c * 0.8) for c in colour))  # type: ignore[arg-type]
    depth, arm = 85, 14
    parts = (
        Part((arm, 0, 22, width - arm, 42, depth), cloth),
        Part((0, 0, 0, width, 82, 22), darker),
        Part((0, 0, 22, arm, 60, depth), darker),
        Part((width - arm, 0, 22, width, 60, depth), darker),
    )
    surface = Surface((arm, 22, width - arm, depth), 42, _OPEN)
    return Furniture(name, width, depth, parts, (surface,))


def _bed() -> Furniture:
    parts = (
        Part((0, 0, 0, 150, 95, 6), Paint(WALNUT)),
        Part((0, 0, 6, 150, 28, 200), Paint(WALNUT)),
        Part((4, 28, 6, 146, 48, 198), Paint((92, 122, 172), (220, 224, 232), "stripes", 0.25)),
        Part((14, 48, 10, 68, 60, 50), Paint(WHITE)),
        Part((82, 48, 10, 136, 60, 50), Paint(WHITE)),
    )
    return Furniture("bed", 150, 200, parts, (Surface((4, 60, 146, 198), 48, _OPEN),))


def _desk() -> Furniture:
    paint = Paint(WHITE, (205, 205, 198), "planks", 0.2)
    parts = (
        Part((0, 71, 0, 130, 75, 65), paint),
        Part((0, 0, 0, 4, 71, 65), Paint(STEEL)),
        Part((90, 0, 0, 130, 71, 62), paint),
    )
    return Furniture("desk", 130, 65, parts, (Surface((0, 0, 130, 65), 75, _OPEN),))


def _television() -> Furniture:
    parts = (
        Part((0, 0, 0, 150, 45, 45), Paint(WALNUT, OAK, "stripes", 0.5)),
        Part((60, 45, 14, 90, 50, 30), Paint(BLACK)),
        Part((20, 50, 20, 130, 112, 26), Paint(BLACK)),
    )
    surface = Surface((0, 28, 150, 45), 45, _OPEN)
    return Furniture("television", 150, 45, parts, (surface,))


def _bathtub() -> Furniture:
    enamel = Paint(WHITE)
    parts = (
        Part((0, 0, 0, 170, 20, 75), enamel),
        Part((0, 20, 0, 170, 58, 8), enamel),
        Part((0, 20, 67, 170, 58, 75), enamel),
        Part((0, 20, 8, 8, 58, 67), enamel),
        Part((162, 20, 8, 170, 58, 67), enamel),
    )
    return Furniture("bathtub", 170, 75, parts)


def _toilet() -> Furniture:
    parts = (
        Part((4, 0, 0, 46, 80, 18), Paint(WHITE)),
        Part((8, 0, 18, 42, 40, 65), Paint(WHITE)),
        Part((7, 40, 18, 43, 44, 65), Paint(STEEL)),
    )
    return Furniture("toilet", 50, 65, parts)


def _chair() -> Furniture:
    wood = Paint((150, 84, 52))
    parts = (
        Part((2, 42, 2, 43, 46, 43), wood),
        Part((2, 46, 2, 43, 90, 6), wood),
        *(Part((x, 0, z, x + 4, 42, z + 4), wood) for x in (2, 39) for z in (2, 39)),
    )
    return Furniture("chair", 45, 45, parts, (Surface((2, 6, 43, 43), 46, 50),))


_DRAWERS = Paint((196, 160, 112), (150, 112, 72), "rings", 0.22)
_FRIDGE = Paint((214, 218, 222), (170, 176, 182), "rings", 0.9)
_WARDROBE = Paint((186, 150, 104), WALNUT, "stripes", 0.55)
_CUPBOARD = Paint((108, 140, 132), (80, 108, 100), "stripes", 0.4)

BED, DESK, BOOKSHELF, TELEVISION = _bed(), _desk(), _bookshelf(), _television()
BATHTUB, TOILET, CHAIR = _bathtub(), _toilet(), _chair()
SOFA, ARMCHAIR = _seat("sofa", 185, (150, 62, 58)), _seat("armchair", 85, (70, 112, 96))
NIGHTSTAND = _chest("nightstand", 45, 40, 50, _DRAWERS, WALNUT)
SIDEBOARD = _chest("sideboard", 120, 40, 80, _DRAWERS, WALNUT)
COUNTER = _chest("counter", 180, 60, 90, _CUPBOARD, (60, 60, 64))
WASHSTAND = _chest("washstand", 70, 50, 85, Paint((120, 160, 180)), WHITE)
FRIDGE = _chest("fridge", 70, 70, 180, _FRIDGE, None)
WARDROBE = _chest("wardrobe", 110, 60, 200, _WARDROBE, None)
DINING_TABLE = _table("dining table", 150, 90, 75, OAK, in_the_middle=True)
COFFEE_TABLE = _table("coffee table", 95, 55, 45, WALNUT, in_the_middle=True)

ROOMS: dict[str, tuple[Furniture, ...]] = {
    "living room": (SOFA, TELEVISION, COFFEE_TABLE, BOOKSHELF, ARMCHAIR, SIDEBOARD),
    "kitchen": (COUNTER, FRIDGE, DINING_TABLE, CHAIR, CHAIR, SIDEBOARD, COUNTER),
    "bedroom": (BED, WARDROBE, NIGHTSTAND, DESK, CHAIR),
    "bathroom": (BATHTUB, WASHSTAND, TOILET, NIGHTSTAND),
    "study": (DESK, CHAIR, BOOKSHELF, BOOKSHELF, ARMCHAIR, SIDEBOARD),
    "dining room": (DINING_TABLE, CHAIR, CHAIR, SIDEBOARD, BOOKSHELF),
}
"""What stands in each kind of room, the most important first; pieces that do not fit are left out."""
