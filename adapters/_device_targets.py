"""The flow targets of :mod:`._targets` in torch operations, for a GPU: heat spreads in all crystals at once.

The pieces of crystals, their centres, and those computed at a reduced scale are the CPU's.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from . import _diffusion
from ._targets import EXACT_LENGTH, Pieces, pieces_of

ABOVE, LEFT, RIGHT, BELOW = 1, 3, 5, 7
"""Of a pixel's 3 x 3, counted row by row."""

CORNERS = ((0, ABOVE, LEFT), (2, ABOVE, RIGHT), (6, BELOW, LEFT), (8, BELOW, RIGHT))
"""Each of its corners, and the two pixels between which heat comes from there."""


@torch.inference_mode()
def flow_targets_on_device(
    labels: NDArray[np.int32], device: str, *, exact_length: int = EXACT_LENGTH
) -> NDArray[np.float32]:
    """Return what :func:`._targets.flow_targets` does, but for rounding errors, 2 x H x W float32 on the host."""
    pieces = pieces_of(labels, exact_length)
    flow = _exact_flow(pieces, device)
    pieces.write_flows(flow, pieces.chosen[~pieces.exact])
    return flow


def _exact_flow(pieces: Pieces, device: str) -> NDArray[np.float32]:
    """Return the flow of the pieces at full scale, 2 x H x W."""
    steps = np.zeros(len(pieces.measures), np.int64)
    exact = pieces.chosen[pieces.exact]
    steps[exact] = _diffusion.steps_of(pieces.measures[exact].T)
    numbers = functional.pad(torch.as_tensor(pieces.numbers, device=device), [1] * 4)
    # Those whose heat spreads longest first, so that at any time it spreads in the first ones.
    pixels = torch.as_tensor(steps, device=device)[numbers.flatten()].argsort(descending=True, stable=True)
    pixels = pixels[: pieces.measures[exact, 4].sum()]
    cells = torch.zeros(numbers.numel(), dtype=torch.int64, device=device)
    cells[pixels] = torch.arange(1, len(pixels) + 1, device=device)
    beside = _beside(numbers, pixels, cells)
    y, x = torch.as_tensor(pieces.centres[exact], device=device).T
    centres = cells.view_as(numbers)[y + 1, x + 1].sort().values
    heat = _spread(beside, centres, steps[exact], pieces.measures[exact, 4])
    down, along = heat[beside[BELOW]] - heat[beside[ABOVE]], heat[beside[RIGHT]] - heat[beside[LEFT]]
    flow = torch.zeros(2, *numbers.shape, device=device)
    flow.flatten(1)[:, pixels] = (torch.stack([down, along]) / (torch.hypot(down, along) + _diffusion.SMALLEST)).float()
    return np.ascontiguousarray(flow[:, 1:-1, 1:-1].cpu().numpy())


def _beside(numbers: Tensor, pixels: Tensor, cells: Tensor) -> Tensor:
    """Return the cells that heat comes from to each of N pixels, 9 x N: those of its piece, or 0, which has none."""
    ways = [down * numbers.shape[1] + along for down in (-1, 0, 1) for along in (-1, 0, 1)]
    around = pixels + torch.tensor(ways, device=pixels.device)[:, None]
    numbers = numbers.flatten()
    own = numbers[around] == numbers[pixels]
    for corner, one, other in CORNERS:
        own[corner] &= own[one] | own[other]
    return torch.where(own, cells[around], 0)


def _spread(beside: Tensor, centres: Tensor, steps: NDArray[np.int64], areas: NDArray[np.int64]) -> Tensor:
    """Return the heat of N + 1 cells, float64: each piece's after its own number of steps."""
    heat = torch.zeros(beside.shape[1] + 1, dtype=torch.float64, device=beside.device)
    for done, until in pairwise([0, *np.unique(steps)]):
        spreads = steps >= until
        size = int(areas[spreads].sum())
        sources, spots = centres[: spreads.sum()], beside[:, :size]
        for _ in range(until - done):
            heat[sources] += 1
            heat[1 : size + 1] = functional.threshold(heat[spots].sum(0) / 9, _diffusion.SMALLEST, 0)
    return heat
