"""Which test images figures 5 and 6 show: by rules that know nothing of any one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low, pstdev

import numpy as np
from numpy.typing import NDArray

from crystalbench.paper._results import Predicted, Results

_NOT_SHOWN = ("cellpose-multiscale", "cellpose-noresize")
_SHOWN_FIRST = ("sima", "cellpose", "boundary", "maskformer", "oneformer", "rtmdet")
_ZOOM = 3
_LEAST_ZOOM_PX = 64


@dataclass(frozen=True)
class Case:
    """One image as the methods segment it, and in words why it was picked."""

    image: str
    predicted: Mapping[str, Predicted]
    rule: str


def shown_methods(results: Results) -> list[str]:
    """Return the methods of the figures, in the order of the paper's captions: those without images are left out."""
    known = [name for name in _SHOWN_FIRST if name in results.methods]
    others = [name for name in results.methods if name not in (*known, *_NOT_SHOWN)]
    chosen = [*known, *(name for name in others if not results.methods[name].row.control)]
    return [name for name in chosen if any(True for _ in results.methods[name].images())]


def pick_cases(results: Results) -> list[Case]:
    """Return the cases of figures 5 and 6, as far as there are images for them: at most two.

    Candidates are images of at least two crystals that all shown methods have segmented; of several seeds the first
    counts.
    """
    candidates = _candidates(results)
    cases = []
    if candidates:
        cases.append(_of_large_variation(candidates))
        del candidates[cases[0].image]
    if candidates:
        cases.append(_typical(candidates))
    return cases


def _candidates(results: Results) -> dict[str, dict[str, Predicted]]:
    methods = shown_methods(results)
    found: dict[str, dict[str, Predicted]] = {}
    for method in methods:
        for predicted in results.methods[method].images():
            if predicted.scores.n_truth > 1:
                found.setdefault(predicted.image, {}).setdefault(method, predicted)
    return {image: found[image] for image in sorted(found) if len(found[image]) == len(methods)}


def _of_large_variation(candidates: Mapping[str, Mapping[str, Predicted]]) -> Case:
    """Return the case of figure 5, of crystals of very different size."""
    of_class_2 = [image for image, found in candidates.items() if _first(found).difficulty == 2]
    names = of_class_2 or list(candidates)
    which = "of class 2 (the shortest crystal less than a tenth as long as the longest)" if of_class_2 else "of all"
    image = max(names, key=lambda name: pstdev(_pq(candidates[name])))
    rule = (
        f"{image}: of the {len(names)} test images {which} that have at least two crystals, the one on which the PQ of "
        "the methods shown differs most (standard deviation)"
    )
    return Case(image, candidates[image], rule)


def _typical(candidates: Mapping[str, Mapping[str, Predicted]]) -> Case:
    """Return the case of figure 6, of many crystals."""
    counts = {image: _first(found).scores.n_truth for image, found in candidates.items()}
    least = median_low(counts.values())
    means = {image: fmean(_pq(candidates[image])) for image, count in counts.items() if count >= least}
    middle = median_low(means.values())
    image = next(name for name, mean in means.items() if mean == middle)
    rule = (
        f"{image}: of the {len(means)} other test images with at least {least} crystals (their median), the one on "
        "which the mean PQ of the methods shown is the median"
    )
    return Case(image, candidates[image], rule)


def _first(found: Mapping[str, Predicted]) -> Predicted:
    return next(iter(found.values()))


def _pq(found: Mapping[str, Predicted]) -> list[float]:
    return [predicted.scores.pq for predicted in found.values()]


def zoom_window(masks: Sequence[NDArray[np.bool_]]) -> tuple[slice, slice]:
    """Return the square window that holds most pixels of all masks (H x W) together, as rows and columns.

    Its side is a third of the longer side of the image, and at least 64 px; of equals the uppermost and leftmost.
    """
    counts = np.sum(masks, axis=0, dtype=np.int64)
    side = min(max(max(counts.shape) // _ZOOM, _LEAST_ZOOM_PX), *counts.shape)
    # Sums over all windows that lie inside, by their first pixel.
    sums = np.pad(counts, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(row), int(row) + side), slice(int(column), int(column) + side)
