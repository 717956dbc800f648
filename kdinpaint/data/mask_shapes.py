"""Brush strokes and boxes, painted into an array until a given number of pixels is covered."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["paint_boxes", "paint_strokes"]

Hole = NDArray[np.bool_]

# Shares of the short side, except where said otherwise.
_BRUSH_RADIUS = (0.025, 0.08)
_BOX_SIDE = (0.125, 0.5)
_STEP = 0.125  # mean distance of two vertices, as a share of the diagonal
_LEAST_STROKE = 0.02  # share of all pixels below which the last stroke goes on instead of a new one


def paint_strokes(hole: Hole, target: int, rng: np.random.Generator) -> None:
    """Paint turning polylines with a round brush until exactly `target` pixels are True, in place.

    Args:
        hole: (H, W).
        target: Number of True pixels to reach; nothing happens if there are as many already.
        rng: Source of randomness.
    """
    height, width = hole.shape
    rows = np.arange(height, dtype=np.float32) + np.float32(0.5)
    columns = np.arange(width, dtype=np.float32) + np.float32(0.5)
    step = _STEP * math.hypot(height, width)
    missing = target - int(np.count_nonzero(hole))
    y = x = heading = radius = 0.0
    while missing > 0:
        if radius == 0 or missing > _LEAST_STROKE * hole.size:
            y, x, heading = rng.uniform(0, (height, width, 2 * math.pi)).tolist()
            # At least four brush widths long, however little is left to paint.
            radius = min(rng.uniform(*_BRUSH_RADIUS) * min(height, width), math.sqrt(missing) / 4)
            radius = max(radius, 0.75)
        vertices = int(rng.integers(4, 13))
        lengths = rng.normal(step, step / 2, vertices).clip(step / 4, 2 * step)
        turns = rng.uniform(0.3, 2.0, vertices) * np.where(rng.random(vertices) < 0.7, 1, -1)
        turns[1::2] *= -1
        for length, turn in zip(lengths.tolist(), turns.tolist(), strict=True):
            heading += turn
            next_y = _reflect(y + length * math.sin(heading), height)
            next_x = _reflect(x + length * math.cos(heading), width)
            missing -= _sweep(hole, rows, columns, (y, x), (next_y, next_x), radius, missing)
            if missing == 0:
                return
            y, x = next_y, next_x


def _reflect(position: float, size: int) -> float:
    position = abs(position) % (2 * size)
    return 2 * size - position if position > size else position


def _sweep(
    hole: Hole,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    limit: int,
) -> int:
    """Paint what a disc covers on its way, stopping it after `limit` new pixels; returns how many it was."""
    reach = radius + 1
    top, bottom = max(int(min(start[0], end[0]) - reach), 0), int(max(start[0], end[0]) + reach) + 1
    left, right = max(int(min(start[1], end[1]) - reach), 0), int(max(start[1], end[1]) + reach) + 1
    part = hole[top:bottom, left:right]
    length = math.hypot(end[0] - start[0], end[1] - start[1]) or 1e-6
    dy, dx = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    y, x = (rows[top:bottom] - start[0])[:, None], columns[left:right] - start[1]
    along, across = y * dy + x * dx, y * dx - x * dy
    beyond = np.maximum(np.abs(along - length / 2) - length / 2, 0)
    squared = across * across
    fresh = (squared + beyond * beyond <= radius * radius) & ~part
    count = int(np.count_nonzero(fresh))
    if count <= limit:
        part |= fresh
        return count
    arrival = along - np.sqrt(np.maximum(radius * radius - squared, 0))
    first = np.argsort(arrival[fresh], kind="stable")[:limit]
    part[tuple(axis[first] for axis in np.nonzero(fresh))] = True
    return limit


def paint_boxes(hole: Hole, target: int, rng: np.random.Generator) -> None:
    """Paint boxes until about `target` pixels are True, in place.

    The last box is scaled to fit, so the error is at most half of one of its edges.

    Args:
        hole: (H, W).
        target: Number of True pixels to reach; nothing happens if there are as many already.
        rng: Source of randomness.
    """
    height, width = hole.shape
    side = min(height, width)
    smallest = (_BOX_SIDE[0] * side) ** 2
    missing = target - int(np.count_nonzero(hole))
    while missing > 0:
        extent = rng.uniform(_BOX_SIDE[0] * side, _BOX_SIDE[1] * side, 2)
        corner = rng.uniform(0, hole.shape) - extent / 2
        pivot = corner + extent * rng.uniform(0.25, 0.75, 2)
        part, gain = _scaled_box(hole, corner, extent, pivot, 1.0)
        if gain > missing - smallest:
            part, gain = _fitting_box(hole, corner, extent, pivot, missing)
            missing = gain
        part[...] = True
        missing -= gain


def _scaled_box(
    hole: Hole,
    corner: NDArray[np.float64],
    extent: NDArray[np.float64],
    pivot: NDArray[np.float64],
    scale: float,
) -> tuple[Hole, int]:
    low = np.rint(pivot + scale * (corner - pivot)).clip(0, hole.shape).astype(int)
    high = np.rint(pivot + scale * (corner + extent - pivot)).clip(0, hole.shape).astype(int)
    part = hole[low[0] : high[0], low[1] : high[1]]
    return part, part.size - int(np.count_nonzero(part))


def _fitting_box(
    hole: Hole,
    corner: NDArray[np.float64],
    extent: NDArray[np.float64],
    pivot: NDArray[np.float64],
    missing: int,
) -> tuple[Hole, int]:
    """The box scaled about its pivot so that it adds as close to `missing` pixels as it can."""
    small, large = 0.0, 4 * max(hole.shape) / float(extent.min())
    best = _scaled_box(hole, corner, extent, pivot, large)
    for _ in range(20):
        middle = (small + large) / 2
        box = _scaled_box(hole, corner, extent, pivot, middle)
        if abs(box[1] - missing) < abs(best[1] - missing):
            best = box
        small, large = (middle, large) if box[1] < missing else (small, middle)
    return best
