"""The decoding of :mod:`._fast_decoding` in torch operations, for a field that lies on a GPU: all pixels at once.

The foreground is looked at on the CPU for how many steps cover its largest part. Labels, and the flow for quality
control, leave the GPU at the end: that and the filling of holes are the CPU's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from crystalbench.segmenter import Labels

from ._fast_decoding import (
    LAST_STEPS,
    LEAST_BESIDE,
    LEAST_PEAK,
    REACH,
    REST_STEPS,
    RESTING,
    SLOW,
    TOGETHER,
    all_walk,
    finished,
    flow_steps,
)
from ._flow import FlowDecode

if TYPE_CHECKING:
    from ._flow import RawField

LOOK_EVERY = 32
"""Steps after which walking paths are looked at: where all have arrived, the walk ends."""


@torch.inference_mode()
def decode_on_device(field: RawField, parameters: FlowDecode, device: str) -> Labels:
    """Turn a field (3 x H x W) into H x W int32 labels.

    Raises
    ------
    ValueError
        Where the flow is not finite.
    """
    field = torch.as_tensor(field, device=device)
    paths = Paths(field[:2] / 5, field[2] > parameters.foreground_threshold)
    if not torch.isfinite(paths.flow).all():
        raise ValueError("the flow that the network gives is not finite")
    labels = paths.labels().cpu().numpy()
    return finished(labels, field[:2].cpu().numpy(), parameters)


class Paths:
    """The paths of the foreground's N pixels; places are 2 x N (y, x), ways 2 x H W (dy, dx), in pixels.

    Parameters
    ----------
    flow
        2 x H x W, pixels a step.
    foreground
        H x W bool.
    """

    def __init__(self, flow: Tensor, foreground: Tensor) -> None:
        self.height, self.width = foreground.shape
        self.foreground = foreground
        self.flow = torch.where(foreground, flow, 0).flatten(1)
        self.start = torch.stack(foreground.nonzero(as_tuple=True)).float()
        self.pixels = self._pixel(self.start)
        self.last = torch.tensor([[self.height - 1], [self.width - 1]], device=flow.device)

    def labels(self) -> Tensor:
        """Return H x W int32: what ends in the same place."""
        labels = torch.zeros(self.height * self.width, dtype=torch.int32, device=self.flow.device)
        if self.pixels.numel():
            ends = self._ends(flow_steps(self.foreground.cpu().numpy()))
            labels[self.pixels] = self._centres(ends)[ends]
        return labels.view(self.height, self.width)

    def _ends(self, steps: int) -> Tensor:
        """Return the pixel (y W + x) that each path ends on, N; ``steps`` is a power of two."""
        way = self._way(self._step(self._step(self.start)))
        rests = self._rests()
        for _ in range(steps.bit_length() - 2):
            way = self._squared(way, rests)
        places = self.start + way[:, self.pixels]
        walks = places.isnan().any(0) | self._parts_from_next(way, places)
        if all_walk(int(walks.sum()), walks.numel(), steps):
            return self._walk_all(steps)
        ends = torch.empty_like(self.pixels)
        ends[~walks] = self._walk(places[:, ~walks], LAST_STEPS)
        ends[walks] = self._walk(self._step(self.start[:, walks]), steps - 1)
        return ends

    def _parts_from_next(self, way: Tensor, places: Tensor) -> Tensor:
        """Return which of the N pixels step between such as end elsewhere, N bool."""
        corners = self._corners(self._step(self.start))[0]
        ends = torch.stack([corners // self.width, corners % self.width]) + way[:, corners]
        apart = ((ends - places[:, None]).abs() > TOGETHER).any(0)
        return (apart & self.foreground.flatten()[corners]).any(0)

    def _walk(self, places: Tensor, steps: int) -> Tensor:
        """Return the pixel (y W + x) of where so many steps lead: the middle of the last two places."""
        now = last = before = places
        for step in range(steps):
            before, last, now = last, now, self._step(now)
            if step % LOOK_EVERY == LOOK_EVERY - 1 and torch.equal(now, before):
                break
        return self._pixel((last + now) / 2)

    def _walk_all(self, steps: int) -> Tensor:
        """Return the pixel (y W + x) that each of Cellpose's paths ends on, N."""
        now = self.start
        for step in range(steps):
            corners, fraction = self._corners(now)
            before, now = now, self._within(now + _between_as_cellpose(self.flow[:, corners], fraction))
            if step % LOOK_EVERY == LOOK_EVERY - 1 and torch.equal(now, before):
                break
        return self._pixel(now)

    def _rests(self) -> Tensor:
        """Return H W bool: the pixels between which, and the next three, a path comes to rest."""
        around = self.flow[:, self._corners(self.start)[0]]
        may = ((around.amax(1) >= 0) & (around.amin(1) <= 0)).all(0) & (self.start < self.last).all(0)
        now = before = self.start[:, may] + 0.5
        for _ in range(REST_STEPS):
            before, now = now, self._step(now)
        rests = torch.zeros_like(self.flow[0], dtype=torch.bool)
        rests[self._pixel(now[:, ((now - before).abs() < RESTING).all(0)])] = True
        return rests

    def _squared(self, way: Tensor, rests: Tensor) -> Tensor:
        """Return where a way leads and the same way on from there; what rests stays."""
        known = ~way[0, self.pixels].isnan()
        places = self.start + torch.where(known, way[:, self.pixels], 0)
        corners, fraction = self._corners(places)
        slow = (_between(self.flow[:, corners], fraction).abs() < SLOW).all(0)
        ways = way[:, corners]
        spread = (ways.amax(1) - ways.amin(1)).amax(0)
        more = torch.where(spread > TOGETHER, torch.nan, _between(ways, fraction))
        places = self._within(places + torch.where(rests[corners[0]] & slow, 0, more))
        return self._way(torch.where(known, places, torch.nan))

    def _step(self, places: Tensor) -> Tensor:
        corners, fraction = self._corners(places)
        return self._within(places + _between(self.flow[:, corners], fraction))

    def _corners(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the four pixels around each place (4 x N), and how far beyond the first it lies (2 x N)."""
        first = places.long()
        (top, left), (below, beside) = first, torch.minimum(first + 1, self.last)
        pixels = [row * self.width + column for row in (top, below) for column in (left, beside)]
        return torch.stack(pixels), places - first

    def _within(self, places: Tensor) -> Tensor:
        return torch.minimum(places.clamp(min=0), self.last)

    def _pixel(self, places: Tensor) -> Tensor:
        y, x = places.long().unbind()
        return y * self.width + x

    def _way(self, places: Tensor) -> Tensor:
        way = torch.zeros_like(self.flow)
        way[:, self.pixels] = places - self.start
        return way

    def _centres(self, ends: Tensor) -> Tensor:
        """Return H W int32: a number for each pixel that belongs to a centre; see :func:`._fast_decoding._centres`."""
        count = torch.bincount(ends, minlength=self.height * self.width).view(1, self.height, self.width)
        count = functional.pad(count.float(), [REACH] * 4)
        highest = functional.max_pool2d(count, 5, stride=1, padding=2)
        y, x = ((count == highest) & (count > LEAST_PEAK))[0].nonzero(as_tuple=True)
        order = count[0, y, x].argsort(stable=True)
        reach = torch.arange(-REACH, REACH + 1, device=ends.device)
        rows, columns = y[order, None, None] + reach[:, None], x[order, None, None] + reach
        belongs = (count[0, rows, columns] > LEAST_BESIDE).float()
        grown = torch.zeros_like(belongs)
        grown[:, REACH, REACH] = 1
        for _ in range(REACH):
            grown = functional.max_pool2d(grown[:, None], 3, stride=1, padding=1)[:, 0] * belongs
        numbers = torch.zeros(count[0].shape, dtype=torch.int64, device=ends.device)
        ranks = torch.arange(1, len(order) + 1, device=ends.device)[:, None, None] * grown.long()
        places = (rows * numbers.shape[1] + columns).flatten()
        numbers.view(-1).scatter_reduce_(0, places, ranks.flatten(), "amax")
        return numbers[REACH:-REACH, REACH:-REACH].flatten().int()


def _between(values: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate between four pixels: 2 x 4 x N to 2 x N."""
    down, across = fraction
    weights = torch.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])
    total: Tensor = (values * weights).sum(1)
    return total


def _between_as_cellpose(values: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate as :func:`._fast_decoding._step_as_cellpose`."""
    down, across = fraction
    up, back = 1 - down.double(), 1 - across.double()
    a, b, c, d = values.unbind(1)
    total: Tensor = a * up * back + b * up * across + c * down * back + d * down * across
    return total.float()
