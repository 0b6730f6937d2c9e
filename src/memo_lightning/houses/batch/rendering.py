"""Ray casting of a packed scene that skips what cannot be visible.

The images are bit for bit those of :func:`~memo_lightning.houses.ray_caster.cast`. A room, group or solid is skipped if
its box is outside the image or behind what its pixels already show. These tests leave a margin far larger than rounding
errors, so that no pixel changes. A house's own solids are axis-aligned boxes, which may be tested in any order; so the
walls around the agent come first and hide most of the house. Objects follow in their order.
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
    meet_level_box,
    screen_rectangle,
)

_CAUTION = 1e-3  # metres
_AT_ONCE = 128  # pixels tested between checks for a hit
_NARROW = 16  # image width up to which testing whole rows costs nothing


@njit(cache=True, nogil=True, error_model="numpy")
def render(scenes, place, x, y, z, turn, tilt, lens, depth, solid):  # type: ignore[no-untyped-def]
    """Write depth, float32 ``[H, W]`` in metres, and the index of the solid hit, int32 ``[H, W]``, -1 for none.

    Returns:
        The eye and axes of the camera, float64 ``[4, 3]``.
    """
    view = np.empty((4, 3))
    view[0, 0], view[0, 1], view[0, 2] = x, y + lens.eye_height, z
    view[1:] = lens.axes[turn, tilt]
    _render(
        view, lens.edges[turn, tilt], lens.columns, lens.rows, lens.rays[turn, tilt],
        scenes.kind[place], scenes.shape[place], scenes.solid_box[place],
        scenes.group[place, : scenes.n_groups[place]], scenes.group_box[place],
        scenes.room_area[place, : scenes.n_rooms[place]], scenes.room_box[place],
        depth, solid,
    )  # fmt: skip
    return view


# Functions in inner loops take plain arrays and indices: slices and tuples of arrays cost more than the arithmetic.
@njit(cache=True, nogil=True, error_model="numpy")
def _render(  # type: ignore[no-untyped-def]
    view, edges, columns, rows, rays, kind, shape, solid_box, group, group_box, room_area, room_box, depth, solid
):
    depth[:] = np.float32(FAR)
    solid[:] = -1
    n_rooms = len(room_area)
    corners = np.empty((8, 3))
    own = -1
    for room in range(n_rooms):
        in_x = room_area[room, 0] <= view[0, 0] <= room_area[room, 2]
        if in_x and room_area[room, 1] <= view[0, 2] <= room_area[room, 3]:
            own = room

    # The ceiling and the walls around the agent, then the walls of other rooms, then what rooms contain.
    for k in (0, own + 1):
        _cast(view, edges, columns, rows, rays, kind, shape, solid_box, group, k, corners, depth, solid)
    shown = np.ones(n_rooms, np.bool_)
    for room in range(n_rooms):
        if room != own:
            shown[room] = _reaches(view, edges, rays, room_box, room, depth)
            if shown[room]:
                _cast(view, edges, columns, rows, rays, kind, shape, solid_box, group, room + 1, corners, depth, solid)
    for room in range(n_rooms):
        if room != own and shown[room]:  # once more, now that all walls are drawn
            shown[room] = _reaches(view, edges, rays, room_box, room, depth)
    for k in range(n_rooms + 1, len(group)):
        if shown[group[k, 0]] and _may_show(view, edges, columns, rows, group_box, k, corners, depth):
            _cast(view, edges, columns, rows, rays, kind, shape, solid_box, group, k, corners, depth, solid)


@njit(cache=True, nogil=True, error_model="numpy")
def _cast(  # type: ignore[no-untyped-def]
    view, edges, columns, rows, rays, kind, shape, solid_box, group, k, corners, depth, solid
):
    """Test the solids of group ``k``."""
    height, width = depth.shape
    slopes, focal_length = _slopes(columns, rows)
    flat_rays, flat_depth, flat_solid = rays.reshape(3, -1), depth.reshape(-1), solid.reshape(-1)
    for p in range(group[k, 1], group[k, 2]):
        if _is_outside(view, edges, solid_box, p):
            continue
        i0, i1, j0, j1 = _rectangle(view, solid_box, p, slopes, focal_length, width, height, corners)
        if i0 >= i1 or j0 >= j1 or _is_hidden(view, solid_box, p, i0, i1, j0, j1, depth):
            continue
        if kind[p] == BOX and shape[p, 7] == 0.0:
            if width <= _NARROW or 2 * (j1 - j0) > width:  # whole rows are contiguous in memory
                first, stop = i0 * width, i1 * width
                meet_level_box(
                    view[0], shape[p], p, flat_rays[0, first:stop], flat_rays[1, first:stop], flat_rays[2, first:stop],
                    flat_depth[first:stop], flat_solid[first:stop],
                )  # fmt: skip
            else:
                cast_level_box(view[0], rays, shape[p], p, i0, i1, j0, j1, depth, solid)
        else:
            cast_turned(view, columns, rows, kind[p], shape[p], p, i0, i1, j0, j1, depth, solid)


@njit(cache=True, nogil=True, error_model="numpy")
def _may_show(view, edges, columns, rows, boxes, k, corners, depth):  # type: ignore[no-untyped-def]
    """Return whether anything in box ``k`` may be visible."""
    if _is_outside(view, edges, boxes, k):
        return False
    height, width = depth.shape
    slopes, focal_length = _slopes(columns, rows)
    i0, i1, j0, j1 = _rectangle(view, boxes, k, slopes, focal_length, width, height, corners)
    return i0 < i1 and j0 < j1 and not _is_hidden(view, boxes, k, i0, i1, j0, j1, depth)


@njit(cache=True, nogil=True, error_model="numpy")
def _reaches(view, edges, rays, boxes, k, depth):  # type: ignore[no-untyped-def]
    """Return whether any ray enters box ``k`` before it hits what its pixel shows.

    Unlike :func:`_may_show`, it can also tell that a box beside the camera is hidden, such as a room behind walls.
    """
    if _is_outside(view, edges, boxes, k):
        return False
    eye, caution = view[0], _CAUTION
    low_x, high_x = boxes[k, 0] - boxes[k, 3] - caution - eye[0], boxes[k, 0] + boxes[k, 3] + caution - eye[0]
    low_y, high_y = boxes[k, 1] - boxes[k, 4] - caution - eye[1], boxes[k, 1] + boxes[k, 4] + caution - eye[1]
    low_z, high_z = boxes[k, 2] - boxes[k, 5] - caution - eye[2], boxes[k, 2] + boxes[k, 5] + caution - eye[2]
    x0, x1, y0, y1 = np.float32(low_x), np.float32(high_x), np.float32(low_y), np.float32(high_y)
    z0, z1, near = np.float32(low_z), np.float32(high_z), np.float32(0.0)
    flat_rays, flat_depth = rays.reshape(3, -1), depth.reshape(-1)
    for start in range(0, len(flat_depth), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(flat_depth))
        ray_x, ray_y, ray_z = flat_rays[0, start:stop], flat_rays[1, start:stop], flat_rays[2, start:stop]
        shown = flat_depth[start:stop]
        n_entered = 0
        for j in range(len(shown)):
            ax, bx = x0 * ray_x[j], x1 * ray_x[j]
            ay, by = y0 * ray_y[j], y1 * ray_y[j]
            az, bz = z0 * ray_z[j], z1 * ray_z[j]
            enter, leave = (ax, bx) if ax < bx else (bx, ax)
            enter_y, leave_y = (ay, by) if ay < by else (by, ay)
            enter_z, leave_z = (az, bz) if az < bz else (bz, az)
            enter = enter if enter > enter_y else enter_y
            leave = leave if leave < leave_y else leave_y
            enter = enter if enter > enter_z else enter_z
            leave = leave if leave < leave_z else leave_z
            n_entered += (enter <= leave) & (leave > near) & (enter <= shown[j])
        if n_entered:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _slopes(columns, rows):  # type: ignore[no-untyped-def]
    """Return the slopes of the outermost pixels, and the focal length in pixels."""
    focal_length = 1.0 / (columns[1] - columns[0]) if len(columns) > 1 else 1.0
    return (columns[0], columns[-1], rows[-1], rows[0]), focal_length


@njit(cache=True, nogil=True, error_model="numpy")
def _rectangle(view, boxes, k, slopes, focal_length, width, height, corners):  # type: ignore[no-untyped-def]
    """Return rows i0 to i1 and columns j0 to j1, outside which box ``k`` cannot be visible.

    It gives the same as :func:`~memo_lightning.houses.ray_caster.screen_rectangle`, in half the time for a box that is
    entirely in front of the camera.
    """
    x, y, z = boxes[k, 0] - view[0, 0], boxes[k, 1] - view[0, 1], boxes[k, 2] - view[0, 2]
    hx, hy, hz = boxes[k, 3], boxes[k, 4], boxes[k, 5]
    along = view[3, 0] * x + view[3, 1] * y + view[3, 2] * z
    ax, ay, az = view[3, 0] * hx, view[3, 1] * hy, view[3, 2] * hz
    if along - abs(ax) - abs(ay) - abs(az) <= NEAR:
        return screen_rectangle(view, BOX, boxes[k], slopes, focal_length, width, height, corners)
    aside, above = view[1, 0] * x + view[1, 2] * z, view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
    sx, sz = view[1, 0] * hx, view[1, 2] * hz  # the right axis is horizontal
    ux, uy, uz = view[2, 0] * hx, view[2, 1] * hy, view[2, 2] * hz
    low_u, high_u, low_v, high_v = 1e9, -1e9, 1e9, -1e9
    for a in (-1.0, 1.0):
        for b in (-1.0, 1.0):
            side, top, far = aside + a * sx + b * sz, above + a * ux + b * uz, along + a * ax + b * az
            for c in (-1.0, 1.0):
                scale = 1.0 / (far + c * ay)
                u, v = side * scale, (top + c * uy) * scale
                low_u, high_u = min(low_u, u), max(high_u, u)
                low_v, high_v = min(low_v, v), max(high_v, v)
    if high_u < slopes[0] or low_u > slopes[1] or high_v < slopes[2] or low_v > slopes[3]:
        return 0, 0, 0, 0
    # One extra pixel on each side, which rounding might cut off.
    j0 = max(int((max(low_u, slopes[0]) - slopes[0]) * focal_length) - 1, 0)
    j1 = min(int((min(high_u, slopes[1]) - slopes[0]) * focal_length) + 3, width)
    i0 = max(int((slopes[3] - min(high_v, slopes[3])) * focal_length) - 1, 0)
    i1 = min(int((slopes[3] - max(low_v, slopes[2])) * focal_length) + 3, height)
    return i0, i1, j0, j1


@njit(cache=True, nogil=True, error_model="numpy")
def _is_outside(view, edges, boxes, k):  # type: ignore[no-untyped-def]
    """Return whether box ``k`` lies behind the camera or beyond one of the image's edges."""
    x, y, z = boxes[k, 0] - view[0, 0], boxes[k, 1] - view[0, 1], boxes[k, 2] - view[0, 2]
    hx, hy, hz = boxes[k, 3], boxes[k, 4], boxes[k, 5]
    farthest = view[3, 0] * x + view[3, 1] * y + view[3, 2] * z
    farthest += abs(view[3, 0]) * hx + abs(view[3, 1]) * hy + abs(view[3, 2]) * hz
    if farthest < NEAR - _CAUTION:
        return True
    for edge in range(4):
        gap = edges[edge, 0] * x + edges[edge, 1] * y + edges[edge, 2] * z
        gap -= abs(edges[edge, 0]) * hx + abs(edges[edge, 1]) * hy + abs(edges[edge, 2]) * hz
        if gap > _CAUTION:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _is_hidden(view, boxes, k, i0, i1, j0, j1, depth):  # type: ignore[no-untyped-def]
    """Return whether all pixels of a rectangle show something nearer than box ``k``."""
    x, y, z = boxes[k, 0] - view[0, 0], boxes[k, 1] - view[0, 1], boxes[k, 2] - view[0, 2]
    nearest = view[3, 0] * x + view[3, 1] * y + view[3, 2] * z
    nearest -= abs(view[3, 0]) * boxes[k, 3] + abs(view[3, 1]) * boxes[k, 4] + abs(view[3, 2]) * boxes[k, 5]
    nearest -= _CAUTION
    if nearest <= NEAR:
        return False
    for i in range(i0, i1):
        for j in range(j0, j1):
            if depth[i, j] >= nearest:
                return False
    return True
