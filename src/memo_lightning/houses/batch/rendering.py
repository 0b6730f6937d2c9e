"""Ray casting of a packed scene, bit for bit what :func:`~memo_lightning.houses.ray_caster.cast` gives, without what
cannot be seen.

A room, a group or a solid whose box is outside of the image, or behind what its pixels show already, is left out. The
tests are cautious by far more than rounding, so that no pixel changes. A house's own solids are boxes that are not
turned, of which the nearest counts in any order; so the walls around the agent come first, and hide most of the house.
Objects follow in their order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from memo_lightning.houses.ray_caster import (
    BOX,
    FAR,
    NEAR,
    cast_level_box,
    cast_turned,
    screen_rectangle,
)

_CAUTION = 1e-3  # metres


@njit(cache=True, nogil=True, error_model="numpy")
def render(scenes, place, x, y, z, turn, tilt, lens, depth, solid):  # type: ignore[no-untyped-def]
    """Write depth float32 ``[H, W]`` in metres, and the index of the solid int32 ``[H, W]``, -1 for none.

    Returns:
        float64 ``[4, 3]``, the eye and the axes of the camera.
    """
    view = np.empty((4, 3))
    view[0, 0], view[0, 1], view[0, 2] = x, y + lens.eye_height, z
    view[1:] = lens.axes[turn, tilt]
    edges, rays = lens.edges[turn, tilt], lens.rays[turn, tilt]
    depth[:] = np.float32(FAR)
    solid[:] = -1
    n_rooms, groups, group_boxes = scenes.n_rooms[place], scenes.group[place], scenes.group_box[place]

    own = -1
    for room in range(n_rooms):
        area = scenes.room_area[place, room]
        if area[0] <= x <= area[2] and area[1] <= z <= area[3]:
            own = room
    _cast_group(scenes, place, view, edges, lens, rays, groups[0, 1], groups[0, 2], depth, solid)  # the ceiling
    if own >= 0:
        _cast_group(scenes, place, view, edges, lens, rays, groups[1 + own, 1], groups[1 + own, 2], depth, solid)
    for room in range(n_rooms):
        if room != own and _may_show(view, edges, lens, scenes.room_box[place, room], depth):
            first, stop = groups[1 + room, 1], groups[1 + room, 2]
            _cast_group(scenes, place, view, edges, lens, rays, first, stop, depth, solid)

    shown = np.empty(n_rooms, np.bool_)
    for room in range(n_rooms):
        shown[room] = room == own or _may_show(view, edges, lens, scenes.room_box[place, room], depth)
    for k in range(1 + n_rooms, scenes.n_groups[place]):
        if shown[groups[k, 0]] and _may_show(view, edges, lens, group_boxes[k], depth):
            _cast_group(scenes, place, view, edges, lens, rays, groups[k, 1], groups[k, 2], depth, solid)
    return view


@njit(cache=True, nogil=True, error_model="numpy")
def _cast_group(scenes, place, view, edges, lens, rays, first, stop, depth, solid):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    slopes, focal_length = _slopes(lens)
    corners = np.empty((8, 3))
    for p in range(first, stop):
        box = scenes.solid_box[place, p]
        if _is_outside(view, edges, box):
            continue
        kind, shape = scenes.kind[place, p], scenes.shape[place, p]
        i0, i1, j0, j1 = screen_rectangle(view, kind, shape, slopes, focal_length, width, height, corners)
        if i0 >= i1 or j0 >= j1 or _is_hidden(view, box, i0, i1, j0, j1, depth):
            continue
        if kind == BOX and shape[7] == 0.0:
            cast_level_box(view[0], rays, shape, p, i0, i1, j0, j1, depth, solid)
        else:
            cast_turned(view, lens.columns, lens.rows, kind, shape, p, i0, i1, j0, j1, depth, solid)


@njit(cache=True, nogil=True, error_model="numpy")
def _may_show(view, edges, lens, box, depth):  # type: ignore[no-untyped-def]
    """Return whether anything within a box may be seen."""
    if _is_outside(view, edges, box):
        return False
    height, width = depth.shape
    slopes, focal_length = _slopes(lens)
    i0, i1, j0, j1 = screen_rectangle(view, BOX, box, slopes, focal_length, width, height, np.empty((8, 3)))
    return i0 < i1 and j0 < j1 and not _is_hidden(view, box, i0, i1, j0, j1, depth)


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(lens):  # type: ignore[no-untyped-def]
    columns, rows = lens.columns, lens.rows
    focal_length = 1.0
    if len(columns) > 1:
        focal_length = 1.0 / (columns[1] - columns[0])
    return (columns[0], columns[-1], rows[-1], rows[0]), focal_length


@njit(cache=True, nogil=True, error_model="numpy")
def _is_outside(view, edges, box):  # type: ignore[no-untyped-def]
    """Return whether a box lies behind the camera or beyond one of the image's edges."""
    x, y, z = box[0] - view[0, 0], box[1] - view[0, 1], box[2] - view[0, 2]
    hx, hy, hz = box[3], box[4], box[5]
    farthest = view[3, 0] * x + view[3, 1] * y + view[3, 2] * z
    farthest += abs(view[3, 0]) * hx + abs(view[3, 1]) * hy + abs(view[3, 2]) * hz
    if farthest < NEAR - _CAUTION:
        return True
    for k in range(4):
        gap = edges[k, 0] * x + edges[k, 1] * y + edges[k, 2] * z
        gap -= abs(edges[k, 0]) * hx + abs(edges[k, 1]) * hy + abs(edges[k, 2]) * hz
        if gap > _CAUTION:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _is_hidden(view, box, i0, i1, j0, j1, depth):  # type: ignore[no-untyped-def]
    """Return whether all pixels of a rectangle show something nearer than a box."""
    x, y, z = box[0] - view[0, 0], box[1] - view[0, 1], box[2] - view[0, 2]
    nearest = view[3, 0] * x + view[3, 1] * y + view[3, 2] * z
    nearest -= abs(view[3, 0]) * box[3] + abs(view[3, 1]) * box[4] + abs(view[3, 2]) * box[5]
    nearest -= _CAUTION
    if nearest <= NEAR:
        return False
    for i in range(i0, i1):
        for j in range(j0, j1):
            if depth[i, j] >= nearest:
                return False
    return True
