"""The evaluator beside NumPy, cellpose, hover_net and scikit-image, and how it grows with pixels and crystals."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
from _timing import Row, alternate, side_by_side, timed
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import regionprops
from skimage.morphology import octagon
from skimage.morphology import skeletonize as scikit_skeletonize
from skimage.segmentation import expand_labels

from crystalbench.evaluation import ImageScores, _backend, _overlaps, cldice, evaluate, feret_diameters

PEERS: tuple[str, ...] = ()

HOVER_NET = "hover-net==0.0.10"
"""Its requirements are of another NumPy, so that it is unpacked alone, and only its metrics are loaded."""

SIDE, CRYSTALS = 1800, 394
WORK = f"{SIDE} x {SIDE}, {CRYSTALS} crystals"

Labels = NDArray[np.int32]


def rows() -> Iterator[Row]:
    """Compare on maps of 1800 x 1800, and fit the exponents of growth."""
    _backend.PAYS_AFTER_PX = 0
    truth, prediction = tiling(SIDE, CRYSTALS, 0), tiling(SIDE, CRYSTALS, 1)
    yield _against_bincount("numba", truth, prediction, 1.0)
    with without_numba():
        yield _against_bincount("NumPy", truth, prediction, 4.0)
    yield _against_cellpose(truth, prediction)
    yield _against_hover_net(truth, prediction)
    yield _against_scikit_lines(truth, prediction)
    yield _against_regionprops(truth)
    yield from _growth()


def tiling(side: int, crystals: int, seed: int) -> Labels:
    """Return crystals that touch, below a margin of background: the cells of random points, moved a little by a seed.

    Above 2048 px they are drawn at a fraction of the size and enlarged.
    """
    if side > 2048:
        return tiling(side // 2, crystals, seed).repeat(2, axis=0).repeat(2, axis=1)
    points = np.random.default_rng(0).uniform(0, side, (crystals, 2))
    points += np.random.default_rng(seed).normal(0, 0.05 * side / math.sqrt(crystals), points.shape)
    cells = cKDTree(points).query(np.argwhere(np.ones((side, side), bool)), workers=-1)[1]
    labels = cells.reshape(side, side).astype(np.int32) + 1
    labels[: side // 50] = 0
    # hover_net asks for numbers without gaps.
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def without_numba() -> AbstractContextManager[object]:
    """Return a context in which overlaps are counted as where numba is not installed."""
    return mock.patch.object(_overlaps, "kernels_for_overlaps", return_value=None)


def _against_bincount(backend: str, truth: Labels, prediction: Labels, most: float) -> Row:
    pair = side_by_side(lambda: evaluate(truth, prediction), lambda: np.bincount(truth.ravel()), 51)
    return Row(
        work=f"PQ, AJI and ACS with {backend}, {WORK}",
        against=f"np.bincount of one of the two maps, NumPy {np.__version__}",
        ratio=1 / pair.ratio,
        goal=f"our time over NumPy's: at most {most:g}",
        agreement=f"{pair.seconds}; areas are the counts: {_same_areas(pair.ours, pair.theirs)}",
    )


def _same_areas(scores: ImageScores, counts: NDArray[np.int64]) -> bool:
    return scores.areas_truth == tuple(np.sort(counts[1:]).tolist())


def _against_cellpose(truth: Labels, prediction: Labels) -> Row:
    from cellpose.metrics import mask_ious

    with np.errstate(invalid="ignore"):
        pair = side_by_side(lambda: evaluate(truth, prediction), lambda: mask_ious(truth, prediction)[0], 51)
    expected = np.sort(pair.theirs[pair.theirs > 0.5])
    found = np.sort([intersection / union for intersection, union in pair.ours.matches])
    return Row(
        work=f"PQ, AJI and ACS, {WORK}",
        against=f"the IoU alone, cellpose.metrics.mask_ious, cellpose {importlib.metadata.version('cellpose')}",
        ratio=pair.ratio,
        goal="at least 3",
        agreement=f"{pair.seconds}; {found.size} matches, IoU apart by {np.abs(found - expected).max():.1e} at most",
    )


def _against_hover_net(truth: Labels, prediction: Labels) -> Row:
    metrics = hover_net()
    pair = alternate(lambda: evaluate(truth, prediction), lambda: metrics.get_fast_aji(truth, prediction), 2)
    return Row(
        work=f"PQ, AJI and ACS, {WORK}",
        against=f"AJI alone, get_fast_aji of the authors' code, {HOVER_NET}",
        ratio=pair.ratio,
        goal="at least 300",
        agreement=f"{pair.seconds}; AJI {pair.ours.aji:.12f} and {pair.theirs:.12f}",
    )


def hover_net() -> ModuleType:
    """Return hover_net's metrics, from its own package."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", folder]
        subprocess.run([*command, HOVER_NET], check=True)
        spec = importlib.util.spec_from_file_location("stats_utils", Path(folder, "hover_net/metrics/stats_utils.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def _against_scikit_lines(truth: Labels, prediction: Labels) -> Row:
    pair = side_by_side(lambda: cldice(truth, prediction), lambda: scikit_cldice(truth, prediction), 5)
    return Row(
        work=f"clDice of the boundaries, {WORK}",
        against=f"skeletonize, expand_labels and SciPy, scikit-image {importlib.metadata.version('scikit-image')}",
        ratio=pair.ratio,
        goal="at least 5",
        agreement=f"{pair.seconds}; both {pair.ours!r}: {pair.ours == pair.theirs}",
    )


def scikit_cldice(truth: Labels, prediction: Labels) -> float:
    """Score the boundaries with what scikit-image and SciPy have."""
    ours, theirs = (scikit_lines(labels) for labels in (truth, prediction))
    sensitivity, precision = (
        (lines & ndimage.binary_dilation(others, octagon(3, 1))).sum() / lines.sum()
        for lines, others in ((ours, theirs), (theirs, ours))
    )
    return float(2 * sensitivity * precision / (sensitivity + precision))


def scikit_lines(labels: Labels) -> NDArray[np.bool_]:
    """Return the centre lines of the boundaries."""
    grown = expand_labels(labels, 4)
    lowest = ndimage.minimum_filter(np.where(grown > 0, grown, np.iinfo(np.int32).max), 3)
    return np.asarray(scikit_skeletonize((ndimage.maximum_filter(grown, 3) > lowest) & (grown > 0)))


def _against_regionprops(labels: Labels) -> Row:
    pair = side_by_side(
        lambda: feret_diameters(labels), lambda: [crystal.feret_diameter_max for crystal in regionprops(labels)], 5
    )
    return Row(
        work=f"Longest and shortest Feret diameters, {WORK}",
        against=f"the longest alone, regionprops, scikit-image {importlib.metadata.version('scikit-image')}",
        ratio=pair.ratio,
        goal="at least 5",
        agreement=f"{pair.seconds}; the longest are equal: {pair.ours.longest.tolist() == pair.theirs}",
    )


def _growth() -> Iterator[Row]:
    sides = [256 * 2**i for i in range(6)]
    by_pixels = [(tiling(side, 400, 0), tiling(side, 400, 1)) for side in sides]
    yield from _exponents("pixels (256^2 to 8192^2, 400 crystals)", [side**2 for side in sides], by_pixels)
    crystals = [10, 50, 250, 1000, 5000, 20_000]
    by_crystals = [(tiling(2048, count, 0), tiling(2048, count, 1)) for count in crystals]
    yield from _exponents("crystals (10 to 20,000, 2048^2)", crystals, by_crystals)


def _exponents(over: str, amounts: list[int], maps: list[tuple[Labels, Labels]]) -> Iterator[Row]:
    for backend in ("numba", "NumPy"):
        figures = {"time": (_seconds, "s"), "memory": (_peak_mb, "MB")}
        for name, (measure, unit) in figures.items():
            found = [_measured(backend, measure, pair) for pair in maps]
            yield Row(
                work=f"{name} of evaluate with {backend} over {over}",
                against="a power law, fitted to the logarithms",
                ratio=float(np.polyfit(np.log(amounts), np.log(found), 1)[0]),
                goal="the exponent, stated",
                agreement=f"{found[0]:.3g} {unit} to {found[-1]:.3g} {unit}",
            )


def _measured(backend: str, measure: Callable[[Labels, Labels], float], maps: tuple[Labels, Labels]) -> float:
    if backend == "numba":
        return measure(*maps)
    with without_numba():
        return measure(*maps)


def _seconds(truth: Labels, prediction: Labels) -> float:
    return float(np.median([timed(lambda: evaluate(truth, prediction))[0] for _ in range(9)]))


def _peak_mb(truth: Labels, prediction: Labels) -> float:
    """Return what evaluate allocates beyond the maps; numba's own table, 200 kB, is not seen."""
    tracemalloc.start()
    evaluate(truth, prediction)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6
