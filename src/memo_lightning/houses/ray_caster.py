"""Exact ray casting of upright solids, compiled with numba for one core.

For every solid, the pixels in the rectangle it projects to are tested and the nearest hit is kept; colours are
computed afterwards, once per pixel. Rays are scaled so that their component along the optical axis is 1, which makes
the distance along a ray the depth that habitat's depth sensors report.

The same scene and pose give the same bits on every machine: there is no ``fastmath`` and no ``parallel``, so
LLVM may neither reorder nor fuse operations, and only operations that IEEE 754 rounds correctly are used
(sums, products, quotients, square roots).

Notation used for shapes:
    - H, W: rows and columns of the image
    - P: number of solids
"""

from __future__ import annotations

import numpy as np
from numba import njit

from memo_lightning.houses.camera import Camera
from memo_lightning.houses.pose import Pose
from memo_lightning.houses.shapes import SolidArrays

NEAR = 0.02
FAR = 1000.0
BOX, _FRUSTUM = 0, 1  # indices in shapes.KINDS; any other kind is an ellipsoid
_CHECKS, _RINGS, _STRIPES, _BRICKS, _PLANKS = 1, 2, 3, 4, 5  # indices in shapes.PATTERNS
LIGHT = (0.36, 0.80, 0.48)  # unit vector towards the light, oblique so that the sides of a box differ


def cast(camera: Camera, pose: Pose, solids: SolidArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return depth, float32 ``[H, W]`` in metres, and the index of the solid hit, int32 ``[H, W]``, -1 for none."""
    view = pose.eye_and_axes(camera.eye_height)
    rays = make_rays(view, camera.columns, camera.rows)
    depth = np.full((camera.height, camera.width), FAR, np.float32)
    solid = np.full((camera.height, camera.width), -1, np.int32)
    _cast(view, camera.columns, camera.rows, rays, solids.kind, solids.shape, depth, solid)
    return depth, solid


def shade(camera: Camera, pose: Pose, solids: SolidArrays, depth: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Return the colours, uint8 ``[H, W, 3]``, of the hits that :func:`cast` found."""
    view = pose.eye_and_axes(camera.eye_height)
    rgb = np.zeros((camera.height, camera.width, 3), np.uint8)
    shade_pixels(
        view, camera.columns, camera.rows, depth, solid,
        solids.kind, solids.pattern, solids.shape, solids.paint, rgb,
    )  # fmt: skip
    return rgb


@njit(cache=True, error_model="numpy")
def make_rays(view, columns, rows):  # type: ignore[no-untyped-def]
    """Return the reciprocals of the components of every pixel's ray, float32 ``[3, H, W]``."""
    inverse = np.empty((3, len(rows), len(columns)), np.float32)
    for axis in range(3):
        right, up, forward = view[1, axis], view[2, axis], view[3, axis]
        for i in range(len(rows)):
            across = forward + rows[i] * up
            for j in range(len(columns)):
                component = across + columns[j] * right
                # Keep away from zero: zero times infinity would be NaN.
                if abs(component) < 1e-9:
                    component = 1e-9
                inverse[axis, i, j] = np.float32(1.0 / component)
    return inverse


@njit(cache=True, error_model="numpy")
def _cast(view, columns, rows, inverse, kind, shape, depth, solid):  # type: ignore[no-untyped-def]
    height, width = depth.shape
    slopes = (columns[0], columns[width - 1], rows[height - 1], rows[0])
    focal_length = 1.0
    if width > 1:
        focal_length = 1.0 / (columns[1] - columns[0])
    corners = np.empty((8, 3))
    for p in range(len(kind)):
        i0, i1, j0, j1 = screen_rectangle(view, kind[p], shape[p], slopes, focal_length, width, height, corners)
        if i0 >= i1 or j0 >= j1:
            continue
        if kind[p] == BOX and shape[p, 7] == 0.0:
            cast_level_box(view[0], inverse, shape[p], p, i0, i1, j0, j1, depth, solid)
        else:
            cast_turned(view, columns, rows, kind[p], shape[p], p, i0, i1, j0, j1, depth, solid)


@njit(cache=True, error_model="numpy")
def screen_rectangle(view, kind, shape, slopes, focal_length, width, height, corners):  # type: ignore[no-untyped-def]
    """Return rows i0 to i1 and columns j0 to j1, outside which the solid cannot be visible."""
    hx, hy, hz = shape[3], shape[4], shape[5]
    if kind == _FRUSTUM:
        hx = max(shape[3], shape[5])
        hz = hx
    c, s = shape[6], shape[7]
    x, y, z = shape[0] - view[0, 0], shape[1] - view[0, 1], shape[2] - view[0, 2]

    n_front = 0
    for k in range(8):
        lx = hx if k & 1 else -hx
        ly = hy if k & 2 else -hy
        lz = hz if k & 4 else -hz
        wx, wy, wz = x + c * lx + s * lz, y + ly, z - s * lx + c * lz
        for axis in range(3):
            corners[k, axis] = view[1 + axis, 0] * wx + view[1 + axis, 1] * wy + view[1 + axis, 2] * wz
        if corners[k, 2] > NEAR:
            n_front += 1
    if n_front == 0:
        return 0, 0, 0, 0

    low_u, high_u, low_v, high_v = 1e9, -1e9, 1e9, -1e9
    for k in range(8):
        if corners[k, 2] > NEAR:
            u, v = corners[k, 0] / corners[k, 2], corners[k, 1] / corners[k, 2]
            low_u, high_u = min(low_u, u), max(high_u, u)
            low_v, high_v = min(low_v, v), max(high_v, v)
    if n_front < 8:
        # Where an edge crosses the near plane, the crossing bounds the visible part.
        for k in range(8):
            for bit in (1, 2, 4):
                other = k | bit
                if other == k or (corners[k, 2] > NEAR) == (corners[other, 2] > NEAR):
                    continue
                t = (NEAR - corners[k, 2]) / (corners[other, 2] - corners[k, 2])
                u = (corners[k, 0] + t * (corners[other, 0] - corners[k, 0])) / NEAR
                v = (corners[k, 1] + t * (corners[other, 1] - corners[k, 1])) / NEAR
                low_u, high_u = min(low_u, u), max(high_u, u)
                low_v, high_v = min(low_v, v), max(high_v, v)

    if high_u < slopes[0] or low_u > slopes[1] or high_v < slopes[2] or low_v > slopes[3]:
        return 0, 0, 0, 0
    low_u, high_u = max(low_u, slopes[0]), min(high_u, slopes[1])
    low_v, high_v = max(low_v, slopes[2]), min(high_v, slopes[3])
    # One extra pixel on each side, which rounding might cut off.
    j0 = max(int((low_u - slopes[0]) * focal_length) - 1, 0)
    j1 = min(int((high_u - slopes[0]) * focal_length) + 3, width)
    i0 = max(int((slopes[3] - high_v) * focal_length) - 1, 0)
    i1 = min(int((slopes[3] - low_v) * focal_length) + 3, height)
    return i0, i1, j0, j1


@njit(cache=True, error_model="numpy")
def cast_level_box(eye, inverse, shape, p, i0, i1, j0, j1, depth, solid):  # type: ignore[no-untyped-def]
    """Test an axis-aligned box against a rectangle of pixels."""
    for i in range(i0, i1):
        meet_level_box(
            eye, shape, p, inverse[0, i, j0:j1], inverse[1, i, j0:j1], inverse[2, i, j0:j1],
            depth[i, j0:j1], solid[i, j0:j1],
        )  # fmt: skip


@njit(cache=True, error_model="numpy")
def meet_level_box(eye, shape, p, inverse_x, inverse_y, inverse_z, depth, solid):  # type: ignore[no-untyped-def]
    """Test an axis-aligned box against a row of pixels: three pairs of planes, branch-free so that it vectorises.

    Of equally near boxes, the one with the lowest index wins, whatever the order of the tests.
    """
    low_x, high_x = np.float32(shape[0] - shape[3] - eye[0]), np.float32(shape[0] + shape[3] - eye[0])
    low_y, high_y = np.float32(shape[1] - shape[4] - eye[1]), np.float32(shape[1] + shape[4] - eye[1])
    low_z, high_z = np.float32(shape[2] - shape[5] - eye[2]), np.float32(shape[2] + shape[5] - eye[2])
    near, index = np.float32(NEAR), np.int32(p)
    for j in range(len(depth)):
        ax, bx = low_x * inverse_x[j], high_x * inverse_x[j]
        ay, by = low_y * inverse_y[j], high_y * inverse_y[j]
        az, bz = low_z * inverse_z[j], high_z * inverse_z[j]
        enter, leave = (ax, bx) if ax < bx else (bx, ax)
        enter_y, leave_y = (ay, by) if ay < by else (by, ay)
        enter_z, leave_z = (az, bz) if az < bz else (bz, az)
        enter = enter if enter > enter_y else enter_y
        leave = leave if leave < leave_y else leave_y
        enter = enter if enter > enter_z else enter_z
        leave = leave if leave < leave_z else leave_z
        nearer = (enter < depth[j]) | ((enter == depth[j]) & (index < solid[j]))
        hit = (enter <= leave) & (enter > near) & nearer
        depth[j] = enter if hit else depth[j]
        solid[j] = index if hit else solid[j]


@njit(cache=True, error_model="numpy")
def cast_turned(view, columns, rows, kind, shape, p, i0, i1, j0, j1, depth, solid):  # type: ignore[no-untyped-def]
    """Test any solid against a rectangle of pixels, in the solid's own coordinates."""
    c, s = shape[6], shape[7]
    x, y, z = view[0, 0] - shape[0], view[0, 1] - shape[1], view[0, 2] - shape[2]
    ox, oy, oz = c * x - s * z, y, s * x + c * z
    for i in range(i0, i1):
        for j in range(j0, j1):
            dx, dy, dz = _ray(view, columns[j], rows[i])
            dx, dz = c * dx - s * dz, s * dx + c * dz
            if kind == BOX:
                t = _meet_box(ox, oy, oz, dx, dy, dz, shape)
            elif kind == _FRUSTUM:
                t = _meet_frustum(ox, oy, oz, dx, dy, dz, shape)
            else:
                t = _meet_ellipsoid(ox, oy, oz, dx, dy, dz, shape)
            if NEAR < t < depth[i, j]:
                depth[i, j] = np.float32(t)
                solid[i, j] = p


@njit(cache=True, error_model="numpy")
def _ray(view, u, v):  # type: ignore[no-untyped-def]
    return (
        view[3, 0] + v * view[2, 0] + u * view[1, 0],
        view[3, 1] + v * view[2, 1] + u * view[1, 1],
        view[3, 2] + v * view[2, 2] + u * view[1, 2],
    )


@njit(cache=True, error_model="numpy")
def _meet_box(ox, oy, oz, dx, dy, dz, shape):  # type: ignore[no-untyped-def]
    enter, leave = -FAR, FAR
    for o, d, half in ((ox, dx, shape[3]), (oy, dy, shape[4]), (oz, dz, shape[5])):
        if abs(d) < 1e-9:
            d = 1e-9
        a, b = (-half - o) / d, (half - o) / d
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    return enter if enter <= leave else FAR


@njit(cache=True, error_model="numpy")
def _meet_frustum(ox, oy, oz, dx, dy, dz, shape):  # type: ignore[no-untyped-def]
    half = shape[4]
    middle, taper = (shape[3] + shape[5]) / 2.0, (shape[5] - shape[3]) / (2.0 * half)
    best = FAR
    if abs(dy) > 1e-9:
        for level, radius in ((-half, shape[3]), (half, shape[5])):
            t = (level - oy) / dy
            x, z = ox + t * dx, oz + t * dz
            if NEAR < t < best and x * x + z * z <= radius * radius:
                best = t
    radius_here = middle + taper * oy
    a = dx * dx + dz * dz - taper * taper * dy * dy
    b = ox * dx + oz * dz - taper * dy * radius_here
    c = ox * ox + oz * oz - radius_here * radius_here
    inside = b * b - a * c
    if abs(a) < 1e-12 or inside < 0.0:
        return best
    root = np.sqrt(inside)
    for t in ((-b - root) / a, (-b + root) / a):
        level = oy + t * dy
        if NEAR < t < best and abs(level) <= half and middle + taper * level >= 0.0:
            best = t
    return best


@njit(cache=True, error_model="numpy")
def _meet_ellipsoid(ox, oy, oz, dx, dy, dz, shape):  # type: ignore[no-untyped-def]
    ox, oy, oz = ox / shape[3], oy / shape[4], oz / shape[5]
    dx, dy, dz = dx / shape[3], dy / shape[4], dz / shape[5]
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1.0
    inside = b * b - a * c
    return (-b - np.sqrt(inside)) / a if inside >= 0.0 else FAR


@njit(cache=True, error_model="numpy")
def shade_pixels(view, columns, rows, depth, solid, kind, pattern, shape, paint, rgb):  # type: ignore[no-untyped-def]
    """Write the colour of every pixel that shows a solid."""
    for i in range(len(rows)):
        for j in range(len(columns)):
            p = solid[i, j]
            if p < 0:
                continue
            t = float(depth[i, j])
            dx, dy, dz = _ray(view, columns[j], rows[i])
            wx = view[0, 0] + t * dx - shape[p, 0]
            y = view[0, 1] + t * dy - shape[p, 1]
            wz = view[0, 2] + t * dz - shape[p, 2]
            c, s = shape[p, 6], shape[p, 7]
            x, z = c * wx - s * wz, s * wx + c * wz
            nx, ny, nz = normal_at(kind[p], shape[p], x, y, z)
            light = brightness(nx, ny, nz, c, s) * (1.0 - 0.25 * t / (t + 6.0))
            first = shows_first(pattern[p], paint[p, 6], x, y, z, nx, ny, nz)
            start = 0 if first else 3
            for channel in range(3):
                rgb[i, j, channel] = np.uint8(min(light * paint[p, start + channel], 255.0))


@njit(cache=True, error_model="numpy")
def brightness(nx, ny, nz, c, s):  # type: ignore[no-untyped-def]
    """Return the brightness of a face, given its normal in the coordinates of a solid rotated by (c, s)."""
    facing = (c * nx + s * nz) * LIGHT[0] + ny * LIGHT[1] + (c * nz - s * nx) * LIGHT[2]
    return 0.80 + 0.24 * facing


@njit(cache=True, error_model="numpy")
def normal_at(kind, shape, x, y, z):  # type: ignore[no-untyped-def]
    """Return the outward unit normal at a point on the surface, in the solid's own coordinates."""
    if kind == BOX:
        ax, ay, az = shape[3] - abs(x), shape[4] - abs(y), shape[5] - abs(z)
        if ax <= ay and ax <= az:
            return (1.0 if x > 0.0 else -1.0), 0.0, 0.0
        if ay <= az:
            return 0.0, (1.0 if y > 0.0 else -1.0), 0.0
        return 0.0, 0.0, (1.0 if z > 0.0 else -1.0)
    if kind == _FRUSTUM:
        if shape[4] - abs(y) < 1e-4:
            return 0.0, (1.0 if y > 0.0 else -1.0), 0.0
        radius = max(np.sqrt(x * x + z * z), 1e-9)
        nx, ny, nz = x / radius, (shape[3] - shape[5]) / (2.0 * shape[4]), z / radius
    else:
        nx, ny, nz = x / (shape[3] * shape[3]), y / (shape[4] * shape[4]), z / (shape[5] * shape[5])
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / length, ny / length, nz / length


@njit(cache=True, error_model="numpy")
def shows_first(pattern, scale, x, y, z, nx, ny, nz):  # type: ignore[no-untyped-def]
    """Return whether a point has the first of its paint's two colours."""
    if pattern == 0:
        return True
    # Shift the pattern off the solids' faces, where rounding would decide the colour.
    x, y, z = x + 0.0123, y + 0.0123, z + 0.0123
    if pattern == _CHECKS:
        return int(np.floor(x / scale) + np.floor(y / scale) + np.floor(z / scale)) & 1 == 0
    if pattern == _RINGS:
        return int(np.floor(y / scale)) & 1 == 0
    across = x if abs(nz) > abs(nx) else z
    if pattern == _STRIPES:
        across = x if abs(ny) > abs(nx) + abs(nz) else across
        return int(np.floor(across / scale)) & 1 == 0
    if pattern == _BRICKS:
        row = np.floor(y / scale)
        across = across + scale if int(row) & 1 else across
        mortar = y / scale - row < 0.14
        brick = across / (2.0 * scale)
        return not (mortar or brick - np.floor(brick) < 0.08)
    board = np.floor(z / scale)  # planks
    along = (x + 0.37 * board) / (6.0 * scale)
    return int(board + np.floor(along)) & 1 == 0
