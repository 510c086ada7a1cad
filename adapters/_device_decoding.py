"""The decoding of :mod:`._fast_decoding` in torch operations, for a field that lies on a GPU: all pixels at once.

Labels, and the flow for quality control, leave the GPU at the end: that and the filling of holes are the CPU's.
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
    finished,
    flow_steps,
)
from ._flow import FlowDecode

if TYPE_CHECKING:
    from ._flow import RawField

WALKED = 32
"""Steps that pixels beside a border walk, away from it, before their label is looked up."""

ROUNDS = 8
"""How often pixels that contradict where they lead walk at most."""


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
        if not self.pixels.numel():
            return labels.view(self.height, self.width)
        ends = self._ends(flow_steps(self.foreground.cpu().numpy()))
        centres = self._centres(ends)
        labels[self.pixels] = centres[ends]
        for _ in range(ROUNDS):
            suspects = self._contradictions(labels)
            before = labels[self.pixels[suspects]]
            found = self._walk(self.start[:, suspects], labels, centres)
            found = torch.where(found > 0, found, before)
            if torch.equal(found, before):
                break
            labels[self.pixels[suspects]] = found
        return labels.view(self.height, self.width)

    def _ends(self, steps: int) -> Tensor:
        """Return the pixel (y W + x) that each path ends on, N; ``steps`` is a power of two."""
        way = self._way(self._step(self._step(self.start)))
        rests = self._rests()
        for _ in range(steps.bit_length() - 2):
            way = self._squared(way, rests)
        now = before = self.start + way[:, self.pixels]
        for _ in range(LAST_STEPS):
            before, now = now, self._step(now)
        return self._pixel((before + now) / 2)

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
        places = self.start + way[:, self.pixels]
        corners, fraction = self._corners(places)
        slow = (_between(self.flow[:, corners], fraction).abs() < SLOW).all(0)
        ways = way[:, corners]
        spread = (ways.amax(1) - ways.amin(1)).amax(0)
        nearest = 2 * (fraction[0] >= 0.5).long() + (fraction[1] >= 0.5)
        near = ways.gather(1, nearest.expand(2, 1, -1))[:, 0]
        more = torch.where(spread < TOGETHER, _between(ways, fraction), near)
        return self._way(self._within(places + torch.where(rests[corners[0]] & slow, 0, more)))

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

    def _contradictions(self, labels: Tensor) -> Tensor:
        """Return which of the N pixels lead to another crystal, or from none to one."""
        around = labels[self._corners(self._step(self.start))[0]]
        return ((around > 0) & (around != labels[self.pixels])).any(0).nonzero()[:, 0]

    def _walk(self, places: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        """Return the label of where paths are after some steps."""
        for _ in range(WALKED):
            places = self._step(places)
        centre = centres[self._pixel(places)]
        return torch.where(centre > 0, centre, labels[self._pixel(self._within(places + 0.5))])


def _between(values: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate between four pixels: 2 x 4 x N to 2 x N."""
    down, across = fraction
    weights = torch.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])
    total: Tensor = (values * weights).sum(1)
    return total
