"""Flow targets beside those of Cellpose, exact and at a reduced scale."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from _timing import Pair, Row, alternate, side_by_side
from cellpose import dynamics
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

import crystalbench.registry  # noqa: F401  registers crystalbench.adapters
from crystalbench.adapters import _device_targets, _targets
from crystalbench.data import find_dataset

PEERS: tuple[str, ...] = ()

Labels = NDArray[np.int32]

CELLPOSE = "cellpose 3.1.1.3, masks_to_flows"
THREADS = 2

EXACT = 10**6
"""Length that no crystal has."""


def rows() -> Iterator[Row]:
    """Yield both forms for one large crystal and for many that touch, one of a GPU, and errors on the demo."""
    for name, labels, repeats in (("a crystal of 800 px", roundish(800), 1), ("330 on 1024^2", mosaic(1024, 330), 3)):
        for form, longest, goal in (
            ("exact", EXACT, "12, equal to 1e-4"),
            ("reduced", 0, "500, under 1.5 degrees"),
        ):
            ours = partial(_targets.flow_targets, labels, threads=THREADS, exact_length=longest)
            theirs = partial(dynamics.masks_to_flows, labels, device=torch.device("cpu"))
            # The compiler's work is not counted.
            ours()
            pair = alternate(ours, theirs, repeats)
            yield Row(f"flow targets, {name}, {form}", CELLPOSE, pair.ratio, f"at least {goal}", agreement(pair))
    yield on_a_gpu()
    yield Row("flow targets of demo, reduced", "our exact form", None, "under 1.5 degrees", errors_on_demo())


def on_a_gpu() -> Row:
    """Time both on a GPU, from labels on the host to flows there."""
    work, goal = "flow targets, 330 on 1024^2, exact, GPU", "stated"
    if not torch.cuda.is_available():
        return Row(work, CELLPOSE, None, goal, "no GPU here")
    labels = mosaic(1024, 330)
    pair = side_by_side(
        partial(_device_targets.flow_targets_on_device, labels, "cuda", exact_length=EXACT),
        partial(dynamics.masks_to_flows, labels, device=torch.device("cuda")),
        repeats=3,
    )
    off = np.abs(pair.ours - _targets.flow_targets(labels, threads=THREADS, exact_length=EXACT)).max()
    return Row(work, CELLPOSE, pair.ratio, goal, f"{off:.2g} from the CPU's form at most; {agreement(pair)}")


def agreement(pair: Pair) -> str:
    """Return how many pixels differ, the mean angle between both, and their seconds, in words."""
    apart = np.abs(pair.ours - pair.theirs).max(axis=0)
    return (
        f"{np.mean(apart > 1e-4):.2%} of pixels differ by more than 1e-4, {mean_angle(pair.ours, pair.theirs):.2g} "
        f"degrees on average; {pair.seconds}"
    )


def mean_angle(flow: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the mean angle in degrees between two flow fields where both flow."""
    moving = flow.any(axis=0) & other.any(axis=0)
    return float(np.degrees(np.arccos(np.clip((flow * other).sum(axis=0)[moving], -1, 1))).mean())


def errors_on_demo() -> str:
    """Return the mean angle between the reduced and the exact form over images, by their crystals' mean length."""
    found: dict[str, list[float]] = {}
    for sample in find_dataset("demo").samples:
        labels = sample.label
        length = np.mean([max(side.stop - side.start for side in box) for box in ndimage.find_objects(labels) if box])
        name = next(f"mean length under {limit} px" for limit in (25, 50, 100, 10**6) if length < limit)
        exact, reduced = (_targets.flow_targets(labels, threads=THREADS, exact_length=to) for to in (EXACT, 0))
        found.setdefault(name, []).append(mean_angle(reduced, exact))
    return "; ".join(f"{name}: {np.mean(errors):.2g} degrees" for name, errors in sorted(found.items()))


def roundish(size: int) -> Labels:
    """Return one crystal with a wavy outline."""
    y, x = np.mgrid[: size + 4, : size + 4] - (size + 3) / 2
    angle = np.arctan2(y, x)
    radius = size / 2 * (1 - 0.06 * (1 + np.cos(3 * angle + 1)) / 2 - 0.03 * (1 + np.cos(7 * angle)) / 2)
    return (np.hypot(y, x) <= radius).astype(np.int32)


def mosaic(size: int, crystals: int) -> Labels:
    """Return convex crystals that touch."""
    centres = np.random.default_rng(0).uniform(0, size, (crystals, 2))
    pixels = np.stack(np.mgrid[:size, :size], axis=-1)
    return (cKDTree(centres).query(pixels)[1] + 1).astype(np.int32)
