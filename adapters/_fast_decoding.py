"""From a flow field to labels as Cellpose does it, without walking every step of every pixel.

Cellpose moves each foreground pixel along the flow for hundreds of steps, and calls a crystal what ends in one place
(Stringer et al. 2021, Methods). Here paths are joined: where one leads in 2k steps is where it leads in k steps from
where it leads in k steps, so that ten lookups do the work of a thousand steps. Paths end between pixels, and beside a
border the ways on from there part; what comes by such a place walks all steps. Where much does, as on the flow of a
network that has learnt too little, all pixels walk as Cellpose's do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import cv2
import fill_voids
import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray

from crystalbench.segmenter import Labels

from . import _diffusion, _flow_quality
from ._flow import Field, FlowDecode, to_host

if TYPE_CHECKING:
    from ._flow import RawField

Mask = NDArray[np.bool_]

Way = NDArray[np.float32]
"""H x W x 2 (dy, dx): how far each pixel gets in some number of steps, in pixels; not a number where it must walk."""

_Found = TypeVar("_Found")

LEAST_STEPS = 200
"""Cellpose's number of steps of 1 px."""

TOGETHER = 2.0
"""Pixels; ways of neighbours that differ by no more are taken to lead to one place. (At a crystal's centre, where all
paths from around end, they differ by 1.)"""

CHAOTIC = 0.05
"""Share of the foreground that must walk, above which all of it does: a flow that leads nowhere in particular, on which
masks depend on every rounding."""

MOST_WALKED = 500_000_000
"""Steps of all pixels together, some seconds, above which not all of it does."""

LAST_STEPS = 2
"""Steps that are walked on top at the end of a path, not looked up."""

REST_STEPS = 64
"""Steps after which a path beside a place of rest has come there."""

RESTING = 1e-3
"""Pixels; what moves less in a step has come to rest: in 1000 steps it gets no further than the next pixel."""

SLOW = 0.3
"""Pixels; what moves less in a step, within a pixel of a place of rest, goes nowhere else."""

LEAST_PEAK = 10
"""Pixels that must end in more than this number on one pixel, for it to be a crystal's centre; Cellpose's."""

LEAST_BESIDE = 2
"""Pixels that must end in more than this number beside a centre, to belong to it; Cellpose's."""

REACH = 5
"""Pixels that a centre grows by; Cellpose's."""

BANDS_PER_THREAD = 4


def decode_fast(field: RawField, parameters: FlowDecode, device: str = "cpu") -> Labels:
    """Turn a field (3 x H x W) into H x W int32 labels, on the CPU, in as many threads as numba may use.

    Raises
    ------
    ValueError
        Where the flow is not finite.
    """
    field = to_host(field)
    with _rows(field.shape[1]) as rows:
        labels = _follow(np.ascontiguousarray(field, np.float32), parameters.foreground_threshold, rows)
    return finished(labels, field[:2], parameters)


def finished(labels: Labels, flow: Field, parameters: FlowDecode) -> Labels:
    """Drop crystals (H x W) that are too small, or whose flow (2 x H x W) is not theirs, and fill holes; in place.

    Returns
    -------
    ``labels``, numbered from 1 without gaps.
    """
    count = int(labels.max(initial=0))
    kept = _diffusion.measure(labels, count)[:, 4] >= max(1, parameters.min_size)
    if parameters.flow_threshold and count:
        kept &= ~_flow_quality.bad_flows(labels, flow, parameters.flow_threshold, threads=get_num_threads())
    kept[0] = False
    numbers = np.cumsum(kept, dtype=np.int32) * kept
    with _rows(len(labels)) as rows:
        rows.map(lambda first, last: _renumber(labels, numbers, first, last))
    if parameters.min_size:
        _fill_holes(labels)
    return labels


def flow_steps(foreground: Mask) -> int:
    """Return how many steps of 1 px lead out of every corner of the largest connected foreground, a power of two.

    Cellpose's 200 leave the pixels of a crystal of 1500 px scattered on their way.
    """
    stats = cv2.connectedComponentsWithStats(foreground.view(np.uint8), connectivity=8)[2][1:]
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    return 1 << (max(LEAST_STEPS, int(sides.max(initial=0))) - 1).bit_length()


@dataclass(frozen=True)
class _Rows:
    """The rows of an image, in bands that are worked on side by side."""

    count: int
    pool: ThreadPoolExecutor

    def map(self, work: Callable[[int, int], _Found]) -> list[_Found]:
        """Call ``work`` with the first and last row of every band, and return what it returns."""
        bands = min(self.count, BANDS_PER_THREAD * get_num_threads())
        edges = np.linspace(0, self.count, bands + 1).astype(int).tolist()
        return list(self.pool.map(work, edges[:-1], edges[1:]))


@contextmanager
def _rows(count: int) -> Iterator[_Rows]:
    with ThreadPoolExecutor(get_num_threads()) as pool:
        yield _Rows(count, pool)


def _follow(field: Field, threshold: float, rows: _Rows) -> Labels:
    """Return H x W labels: what ends in the same place."""
    shape = field.shape[1:]
    flow, foreground = np.empty((*shape, 2), np.float32), np.empty(shape, np.bool_)
    if not all(rows.map(lambda first, last: _prepare(field, np.float32(threshold), flow, foreground, first, last))):
        raise ValueError("the flow that the network gives is not finite")
    steps = flow_steps(foreground)
    ends = _ends(flow, foreground, steps, rows)
    centres = _centres(ends)
    labels = np.empty(shape, np.int32)
    rows.map(lambda first, last: _look_up(ends, centres, labels, first, last))
    return labels


def _ends(flow: NDArray[np.float32], foreground: Mask, steps: int, rows: _Rows) -> NDArray[np.int32]:
    """Return the pixel (y W + x) that each foreground pixel ends on, -1 elsewhere; ``steps`` is a power of two."""
    way, rests = np.empty_like(flow), np.zeros_like(foreground)
    rows.map(lambda first, last: _two_steps(flow, foreground, way, first, last))
    rows.map(lambda first, last: _find_rests(flow, foreground, rests, first, last))
    for _ in range(steps.bit_length() - 2):
        way = _squared(way, flow, foreground, rests, rows)
    ends = np.empty(foreground.shape, np.int32)
    walked = rows.map(lambda first, last: _arrive(flow, way, foreground, ends, steps, first, last))
    if all_walk(sum(walked), np.count_nonzero(foreground), steps):
        rows.map(lambda first, last: _walk_all(flow, foreground, ends, steps, first, last))
    return ends


def all_walk(walked: int, foreground: int, steps: int) -> bool:
    """Return whether so many of the foreground's pixels must walk that all do."""
    return walked > CHAOTIC * foreground and foreground * steps <= MOST_WALKED


def _centres(ends: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return a number for each pixel that belongs to a centre, 0 elsewhere; where two meet, that of the higher peak.

    A centre is a peak of how many pixels end on each, in 5 x 5 pixels, and grows from there.
    """
    count = _count(ends)
    peaks = _peaks(count)
    peaks = peaks[np.argsort(count[peaks[:, 0], peaks[:, 1]], kind="stable")]
    return np.ascontiguousarray(_grown(count, peaks)[REACH:-REACH, REACH:-REACH])


def _squared(way: Way, flow: NDArray[np.float32], foreground: Mask, rests: Mask, rows: _Rows) -> Way:
    """Return where a way leads and the same way on from there."""
    squared = np.empty_like(way)
    rows.map(lambda first, last: _square(way, flow, foreground, rests, squared, first, last))
    return squared


def _fill_holes(labels: Labels) -> None:
    """Fill holes of background in crystals (H x W, numbered without gaps), in place.

    As :func:`cellpose.utils.fill_holes_and_remove_small_masks`, which looks for holes in every crystal; here in those
    alone that may have one. Where crystals lie inside of each other, a hole goes to the innermost.
    """
    boxes = _diffusion.measure(labels, int(labels.max(initial=0)))[:, :4]
    whole = labels.copy()
    for number in _may_have_holes(labels, boxes):
        top, bottom, left, right = boxes[number]
        box = (slice(top, bottom), slice(left, right))
        inside = fill_voids.fill(whole[box] == number)
        labels[box][inside & (whole[box] == 0)] = number


def _may_have_holes(labels: Labels, boxes: NDArray[np.int64]) -> list[int]:
    """Return the crystals that touch background which the frame does not, and whose box holds all others that do."""
    _, gaps, stats, _ = cv2.connectedComponentsWithStats((labels == 0).astype(np.uint8), connectivity=4)
    left, top, width, height = (stats[:, i] for i in range(4))
    enclosed = (left > 0) & (top > 0) & (left + width < labels.shape[1]) & (top + height < labels.shape[0])
    enclosed[0] = False
    found = [_around(labels, boxes, gaps, gap, stats[gap]) for gap in np.flatnonzero(enclosed)]
    return sorted({number for number in found if number})


# Kernels: the rows from ``first`` to ``last`` of an H x W image. Flow and way are H x W x 2 (dy, dx) in pixels.


@njit(cache=True, nogil=True)
def _prepare(field, threshold, flow, foreground, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill in the flow in pixels a step, zero outside of the foreground; say whether it is finite."""
    finite = True
    for y in range(first, last):
        for x in range(foreground.shape[1]):
            inside = field[2, y, x] > threshold
            dy = field[0, y, x] / np.float32(5) if inside else np.float32(0)
            dx = field[1, y, x] / np.float32(5) if inside else np.float32(0)
            foreground[y, x] = inside
            flow[y, x, 0], flow[y, x, 1] = dy, dx
            finite &= np.isfinite(dy) and np.isfinite(dx)
    return finite


@njit(cache=True, nogil=True, inline="always")
def _step(flow, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return where a step from (y, x) leads, the flow interpolated between four pixels."""
    bottom, right = flow.shape[0] - 1, flow.shape[1] - 1
    top, left = int(y), int(x)
    below, beside = min(bottom, top + 1), min(right, left + 1)
    down, across = y - np.float32(top), x - np.float32(left)
    up, back = np.float32(1) - down, np.float32(1) - across
    a, b, c, d = up * back, up * across, down * back, down * across
    dy = flow[top, left, 0] * a + flow[top, beside, 0] * b + flow[below, left, 0] * c + flow[below, beside, 0] * d
    dx = flow[top, left, 1] * a + flow[top, beside, 1] * b + flow[below, left, 1] * c + flow[below, beside, 1] * d
    return (
        min(np.float32(bottom), max(np.float32(0), y + dy)),
        min(np.float32(right), max(np.float32(0), x + dx)),
    )


@njit(cache=True, nogil=True)
def _two_steps(flow, foreground, way, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for y in range(first, last):
        for x in range(foreground.shape[1]):
            way[y, x, 0], way[y, x, 1] = np.float32(0), np.float32(0)
            if foreground[y, x]:
                to_y, to_x = _first_step(flow, y, x)
                to_y, to_x = _step(flow, to_y, to_x)
                way[y, x, 0], way[y, x, 1] = to_y - np.float32(y), to_x - np.float32(x)


@njit(cache=True, nogil=True, inline="always")
def _first_step(flow, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return where a step from the middle of a pixel leads."""
    bottom, right = np.float32(flow.shape[0] - 1), np.float32(flow.shape[1] - 1)
    return (
        min(bottom, max(np.float32(0), np.float32(y) + flow[y, x, 0])),
        min(right, max(np.float32(0), np.float32(x) + flow[y, x, 1])),
    )


@njit(cache=True, nogil=True)
def _find_rests(flow, foreground, rests, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Mark the pixels (top left of four) between which a path comes to rest.

    Beside a border such a place may lie nearer to pixels whose ways lead to the neighbour than to its crystal's own.
    """
    for y in range(first, min(last, foreground.shape[0] - 1)):
        for x in range(foreground.shape[1] - 1):
            if foreground[y, x] and _may_rest(flow, y, x):
                now_y, now_x = np.float32(y) + np.float32(0.5), np.float32(x) + np.float32(0.5)
                before_y, before_x = now_y, now_x
                for _ in range(REST_STEPS):
                    before_y, before_x = now_y, now_x
                    now_y, now_x = _step(flow, now_y, now_x)
                    if now_y == before_y and now_x == before_x:
                        break
                if max(abs(now_y - before_y), abs(now_x - before_x)) < RESTING:
                    rests[int(now_y), int(now_x)] = True


@njit(cache=True, nogil=True, inline="always")
def _may_rest(flow, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return whether the flow of the four pixels from (y, x) on can be zero between them."""
    for axis in range(2):
        a, b, c, d = flow[y, x, axis], flow[y, x + 1, axis], flow[y + 1, x, axis], flow[y + 1, x + 1, axis]
        if max(max(a, b), max(c, d)) < 0 or min(min(a, b), min(c, d)) > 0:
            return False
    return True


@njit(cache=True, nogil=True)
def _square(way, flow, foreground, rests, squared, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    bottom, right = np.float32(foreground.shape[0] - 1), np.float32(foreground.shape[1] - 1)
    for y in range(first, last):
        for x in range(foreground.shape[1]):
            dy, dx = way[y, x, 0], way[y, x, 1]
            if foreground[y, x] and not np.isnan(dy):
                to_y, to_x = np.float32(y) + dy, np.float32(x) + dx
                if not (rests[int(to_y), int(to_x)] and _is_slow(flow, to_y, to_x)):
                    more_y, more_x = _way_from(way, to_y, to_x)
                    dy, dx = dy + more_y, dx + more_x
                    if not np.isnan(dy):
                        dy = min(bottom - np.float32(y), max(-np.float32(y), dy))
                        dx = min(right - np.float32(x), max(-np.float32(x), dx))
            squared[y, x, 0], squared[y, x, 1] = dy, dx


@njit(cache=True, nogil=True, inline="always")
def _is_slow(flow, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    to_y, to_x = _step(flow, y, x)
    return abs(to_y - y) < SLOW and abs(to_x - x) < SLOW


@njit(cache=True, nogil=True, inline="always")
def _way_from(way, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the way from (y, x), between those of the four pixels around it, if these run together."""
    top, left = int(y), int(x)
    below, beside = min(way.shape[0] - 1, top + 1), min(way.shape[1] - 1, left + 1)
    down, across = y - np.float32(top), x - np.float32(left)
    a_y, b_y, c_y, d_y = way[top, left, 0], way[top, beside, 0], way[below, left, 0], way[below, beside, 0]
    a_x, b_x, c_x, d_x = way[top, left, 1], way[top, beside, 1], way[below, left, 1], way[below, beside, 1]
    spread_y = max(max(a_y, b_y), max(c_y, d_y)) - min(min(a_y, b_y), min(c_y, d_y))
    spread_x = max(max(a_x, b_x), max(c_x, d_x)) - min(min(a_x, b_x), min(c_x, d_x))
    if max(spread_y, spread_x) > TOGETHER:
        return np.float32(np.nan), np.float32(np.nan)
    up, back = np.float32(1) - down, np.float32(1) - across
    a, b, c, d = up * back, up * across, down * back, down * across
    return a_y * a + b_y * b + c_y * c + d_y * d, a_x * a + b_x * b + c_x * c + d_x * d


@njit(cache=True, nogil=True)
def _arrive(flow, way, foreground, ends, steps, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Walk the last steps, or all where the way is not known or not that of the next step; return how many walk all."""
    walked = 0
    for y in range(first, last):
        for x in range(foreground.shape[1]):
            ends[y, x] = -1
            if foreground[y, x]:
                end_y, end_x = np.float32(y) + way[y, x, 0], np.float32(x) + way[y, x, 1]
                if np.isnan(end_y) or _parts_from_next(flow, way, foreground, y, x, end_y, end_x):
                    end_y, end_x = _walk(flow, *_first_step(flow, y, x), steps - 1)
                    walked += 1
                else:
                    end_y, end_x = _walk(flow, end_y, end_x, LAST_STEPS)
                ends[y, x] = int(end_y) * foreground.shape[1] + int(end_x)
    return walked


@njit(cache=True, nogil=True)
def _walk_all(flow, foreground, ends, steps, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Walk all steps from each pixel to the very place where Cellpose's end."""
    for y in range(first, last):
        for x in range(foreground.shape[1]):
            if foreground[y, x]:
                now_y, now_x = np.float32(y), np.float32(x)
                for _ in range(steps):
                    before_y, before_x = now_y, now_x
                    now_y, now_x = _step_as_cellpose(flow, now_y, now_x)
                    if now_y == before_y and now_x == before_x:
                        break
                ends[y, x] = int(now_y) * foreground.shape[1] + int(now_x)


@njit(cache=True, nogil=True, inline="always")
def _parts_from_next(flow, way, foreground, y, x, end_y, end_x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return whether one of the pixels that a pixel steps between ends elsewhere."""
    to_y, to_x = _first_step(flow, y, x)
    for row in range(int(to_y), min(int(to_y) + 2, foreground.shape[0])):
        for column in range(int(to_x), min(int(to_x) + 2, foreground.shape[1])):
            apart_y = abs(np.float32(row) + way[row, column, 0] - end_y)
            apart_x = abs(np.float32(column) + way[row, column, 1] - end_x)
            if foreground[row, column] and (apart_y > TOGETHER or apart_x > TOGETHER):
                return True
    return False


@njit(cache=True, nogil=True)
def _walk(flow, y, x, steps):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return where some steps lead: the middle of the last two places, as paths swing about a centre."""
    half = np.float32(0.5)
    last_y, last_x = np.float32(-1), np.float32(-1)
    for _ in range(steps):
        before_y, before_x = last_y, last_x
        last_y, last_x = y, x
        y, x = _step(flow, y, x)
        if y == before_y and x == before_x:
            break
    return (last_y + y) * half, (last_x + x) * half


@njit(cache=True, nogil=True, inline="always")
def _step_as_cellpose(flow, y, x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return where a step leads, to the last bit of :func:`cellpose.dynamics.steps_interp` on the CPU.

    Numba gives that single precision but for the differences from 1.
    """
    bottom, right = flow.shape[0] - 1, flow.shape[1] - 1
    top, left = int(y), int(x)
    below, beside = min(bottom, top + 1), min(right, left + 1)
    down, across = y - np.float32(top), x - np.float32(left)
    up, back = np.float64(1) - down, np.float64(1) - across
    a, b, c, d = flow[top, left], flow[top, beside], flow[below, left], flow[below, beside]
    dy = np.float32(a[0] * up * back + b[0] * up * across + c[0] * down * back + d[0] * down * across)
    dx = np.float32(a[1] * up * back + b[1] * up * across + c[1] * down * back + d[1] * down * across)
    return (
        min(np.float32(bottom), max(np.float32(0), y + dy)),
        min(np.float32(right), max(np.float32(0), x + dx)),
    )


@njit(cache=True, nogil=True)
def _count(ends):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how many pixels end on each, with a frame of ``REACH`` zeros."""
    height, width = ends.shape
    count = np.zeros((height + 2 * REACH, width + 2 * REACH), np.int32)
    for y in range(height):
        for x in range(width):
            end = ends[y, x]
            if end >= 0:
                count[end // width + REACH, end % width + REACH] += 1
    return count


@njit(cache=True, nogil=True)
def _peaks(count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return where (K x 2) a count is above ``LEAST_PEAK`` and the highest of 5 x 5 pixels."""
    height, width = count.shape
    places = np.empty((count.size // LEAST_PEAK + 1, 2), np.int32)
    found = 0
    for y in range(REACH, height - REACH):
        for x in range(REACH, width - REACH):
            if count[y, x] > LEAST_PEAK and count[y, x] == count[y - 2 : y + 3, x - 2 : x + 3].max():
                places[found, 0], places[found, 1] = y, x
                found += 1
    return places[:found]


@njit(cache=True, nogil=True)
def _grown(count, peaks):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    numbers = np.zeros_like(count)
    for index in range(len(peaks)):
        y, x = peaks[index]
        top, left = y - REACH, x - REACH
        bottom, right = y + REACH + 1, x + REACH + 1
        _grow(count[top:bottom, left:right], numbers[top:bottom, left:right], index + 1)
    return numbers


@njit(cache=True, nogil=True)
def _grow(count, numbers, number):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give ``number`` to the middle of a box, and to what it reaches over pixels that enough paths end on."""
    side = 2 * REACH + 1
    reached = np.full((side, side), REACH + 1)
    reached[REACH, REACH] = 0
    numbers[REACH, REACH] = number
    for step in range(1, REACH + 1):
        for y in range(REACH - step, REACH + step + 1):
            for x in range(REACH - step, REACH + step + 1):
                if count[y, x] > LEAST_BESIDE and reached[y, x] > step:
                    around = reached[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                    if around.min() < step:
                        reached[y, x] = step
                        numbers[y, x] = number


@njit(cache=True, nogil=True)
def _look_up(ends, centres, labels, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    width = ends.shape[1]
    for y in range(first, last):
        for x in range(width):
            end = ends[y, x]
            labels[y, x] = centres[end // width, end % width] if end >= 0 else 0


@njit(cache=True, nogil=True)
def _renumber(labels, numbers, first, last):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for y in range(first, last):
        for x in range(labels.shape[1]):
            labels[y, x] = numbers[labels[y, x]]


@njit(cache=True, nogil=True)
def _around(labels, boxes, gaps, gap, stats):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the crystal beside a gap whose box (top, bottom, left, right) holds those of all beside it, or 0."""
    outer = np.array([labels.shape[0], 0, labels.shape[1], 0])
    largest = 0
    for y in range(stats[1], stats[1] + stats[3]):
        for x in range(stats[0], stats[0] + stats[2]):
            if gaps[y, x] != gap:
                continue
            for number in (labels[y - 1, x], labels[y + 1, x], labels[y, x - 1], labels[y, x + 1]):
                if number:
                    top, bottom, left, right = boxes[number]
                    outer[0], outer[1] = min(outer[0], top), max(outer[1], bottom)
                    outer[2], outer[3] = min(outer[2], left), max(outer[3], right)
                    if (boxes[number] == outer).all():
                        largest = number
    return largest if (boxes[largest] == outer).all() else 0
