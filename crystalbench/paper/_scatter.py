"""Results -> the points of figure 4: PQ and clDice of each test image against the error of its crystal size."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from crystalbench.evaluation import centre_lines, line_cldice, mean_and_std
from crystalbench.paper._results import Predicted, Results


class Point(NamedTuple):
    """One image as one record has it: fractions, NaN where undefined; ``error`` is the relative one of the ACS."""

    method: str
    image: str
    pq: float
    cldice: float
    error: float
    key: str


class Correlation(NamedTuple):
    """What the points of some methods say; ``rho`` are Spearman's rank correlations with the error.

    ``n`` and ``n_cldice`` are the points behind them. NaN where undefined: of fewer than three points, or where one of
    the two is the same everywhere.
    """

    cldice: float
    cldice_std: float
    rho_pq: float
    n: int
    rho_cldice: float
    n_cldice: int


def scatter(results: Results, report: Callable[[int, int], None]) -> list[Point]:
    """Return a point for each image of each method that is no control, by image."""
    predicted: defaultdict[str, list[tuple[str, Predicted]]] = defaultdict(list)
    for method, result in results.methods.items():
        for found in result.images() if not result.row.control else ():
            predicted[found.image].append((method, found))
    points, samples = [], results.samples
    for count, (image, of_image) in enumerate(sorted(predicted.items())):
        report(count, len(predicted))
        lines = centre_lines(samples[image].label)
        for method, found in of_image:
            cldice = line_cldice(lines, centre_lines(found.read_labels()))
            points.append(Point(method, image, found.scores.pq, cldice, _error(found), found.key))
    return points


def _error(found: Predicted) -> float:
    return math.nan if found.scores.undefined else found.scores.acs_relative_error


def correlation(points: Sequence[Point]) -> Correlation:
    """Return how scores and error go together in ``points``."""
    rho_pq, n = _spearman([(point.pq, point.error) for point in points])
    rho_cldice, n_cldice = _spearman([(point.cldice, point.error) for point in points])
    return Correlation(*mean_and_std(point.cldice for point in points), rho_pq, n, rho_cldice, n_cldice)


def by_method(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Return the points of each method, in the order in which methods are met."""
    found: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        found[point.method].append(point)
    return dict(found)


def points_to_csv(points: Sequence[Point]) -> str:
    """Return the points as CSV: fractions, an undefined value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "image", "pq", "cldice", "acs_relative_error", "record"])
    writer.writerows(["" if cell != cell else cell for cell in point] for point in points)
    return text.getvalue()


def _spearman(pairs: Sequence[tuple[float, float]]) -> tuple[float, int]:
    from scipy.stats import spearmanr

    defined = [pair for pair in pairs if not any(map(math.isnan, pair))]
    if len(defined) < 3 or any(len(set(values)) == 1 for values in zip(*defined, strict=True)):
        return math.nan, len(defined)
    return float(spearmanr(*zip(*defined, strict=True)).statistic), len(defined)
