"""Whether scores differ by more than chance: paired tests over images, and intervals from resampled groups."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalbench._exceptions import DataError

LEVEL = 0.05
"""Level of the tests; intervals have the confidence 1 - LEVEL."""

METHOD = "auto"
"""What SciPy is asked for: exact where pairs are few and none are tied, by its own rules."""

_RESAMPLES = 10_000
_DECIMALS = 12

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SignedRankTest:
    """A two-sided Wilcoxon signed-rank test.

    Attributes
    ----------
    n
        Pairs: images on which both scores are defined.
    n_different
        Pairs that differ once rounded to 12 decimals; the others are left out of the ranks.
    p
        1 where no pair differs.
    rank_biserial
        The effect's size (Kerby 2014): sum of the ranks in favour of the first minus the sum of those against it, as a
        fraction of all; from -1 to 1, and 0 where no pair differs.
    method
        The computation of p that SciPy was asked for.
    scipy
        SciPy's version, which decides what ``auto`` means.
    """

    n: int
    n_different: int
    p: float
    rank_biserial: float
    method: str
    scipy: str


@dataclass(frozen=True)
class PairedComparison:
    """Two of several methods, tested over the images that both have; differences are those of ``a`` minus ``b``.

    Attributes
    ----------
    a, b
        Their positions among the methods.
    mean_difference, median_difference
        Over the pairs; NaN where there is none.
    p_bonferroni, p_holm
        The p of ``test``, corrected for all pairs of the methods.
    """

    a: int
    b: int
    test: SignedRankTest
    mean_difference: float
    median_difference: float
    p_bonferroni: float
    p_holm: float

    @property
    def told_apart(self) -> bool:
        """Whether one is better than the other, and not by chance.

        That takes Holm's p to be at most 0.05, ranks and means that favour the same method, and as many different pairs
        as an exact test needs for 0.05: SciPy's normal approximation of few pairs can go below what these can reach.
        """
        agree = self.test.rank_biserial * self.mean_difference > 0
        return agree and self.p_holm <= LEVEL and smallest_p(self.test.n_different) <= LEVEL


def signed_rank_test(x: ArrayLike, y: ArrayLike) -> SignedRankTest:
    """Test whether paired scores differ, by Wilcoxon's two-sided signed-rank test (``scipy.stats.wilcoxon``).

    Differences are rounded to 12 decimals, so that noise of the arithmetic has no rank, and pairs that do not differ
    are left out (``zero_method="wilcox"``). Where none differs p is 1; SciPy gives NaN there.

    Parameters
    ----------
    x, y
        Scores of two methods on the same images, shape (n,). A pair with a NaN is left out.

    Raises
    ------
    DataError
        Where they are not two lists of one length.
    """
    import scipy

    differences = np.round(_differences(x, y), _DECIMALS)
    different = differences[differences != 0]
    return SignedRankTest(
        n=differences.size,
        n_different=different.size,
        p=_wilcoxon_p(tuple(differences.tolist())) if different.size else 1.0,
        rank_biserial=_rank_biserial(different) if different.size else 0.0,
        method=METHOD,
        scipy=scipy.__version__,
    )


def compare_all(scores: ArrayLike) -> list[PairedComparison]:
    """Test each pair of several methods with :func:`signed_rank_test`, and correct p for the number of pairs.

    Parameters
    ----------
    scores
        Shape (methods, images); NaN where a method has no score on an image.

    Returns
    -------
    list of PairedComparison
        In the order of ``itertools.combinations``.
    """
    methods = np.asarray(scores, np.float64)
    pairs = list(combinations(range(len(methods)), 2))
    tests = [signed_rank_test(methods[a], methods[b]) for a, b in pairs]
    p = [test.p for test in tests]
    differences = (_differences(methods[a], methods[b]) for a, b in pairs)
    return [
        PairedComparison(a, b, test, _mean(d), _median(d), float(p_bonferroni), float(p_holm))
        for (a, b), test, d, p_bonferroni, p_holm in zip(pairs, tests, differences, bonferroni(p), holm(p), strict=True)
    ]


def rank_intervals(comparisons: Iterable[PairedComparison], n: int) -> list[tuple[int, int]]:
    """Return the first and the last rank that each of ``n`` methods may have.

    Parameters
    ----------
    comparisons
        All pairs of the methods, which are in the order of their mean scores, best first.
    n
        Number of methods.

    Returns
    -------
    list of tuple of int
        The places, from 1, of the first and the last of the methods that are not told apart from this one. So two that
        are not told apart share ranks, and each interval holds the method's own place.
    """
    first, last = list(range(1, n + 1)), list(range(1, n + 1))
    for comparison in comparisons:
        if not comparison.told_apart:
            upper, lower = sorted((comparison.a, comparison.b))
            first[lower] = min(first[lower], upper + 1)
            last[upper] = max(last[upper], lower + 1)
    return list(zip(first, last, strict=True))


def bonferroni(p: ArrayLike) -> Floats:
    """Return each p times their number, at most 1."""
    values = np.asarray(p, np.float64)
    return np.minimum(values * values.size, 1.0)


def holm(p: ArrayLike) -> Floats:
    """Return each p after Holm's step-down correction (Holm 1979), at most 1."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def smallest_p(n: int) -> float:
    """Return the smallest p that an exact two-sided signed-rank test of ``n`` pairs can have: 2^(1-n), at most 1."""
    return min(1.0, 2.0 ** (1 - n))


def can_pass(n: int, comparisons: int) -> bool:
    """Say whether ``n`` pairs can reach a p that is at most 0.05 after correction for so many comparisons."""
    return smallest_p(n) * comparisons <= LEVEL


def mean_interval(values: ArrayLike, groups: Sequence[Hashable], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over images, resampling whole groups.

    The quantiles of the means of 10,000 resamples. All calls with one seed and one number of groups draw the same
    groups. For two methods give the differences per image: the interval of their mean is the paired one.

    Parameters
    ----------
    values
        One per image; NaN is left out.
    groups
        The group of each image; images of one group are not independent.
    seed
        Of the draws.

    Returns
    -------
    tuple of float
        Low and high; NaN where fewer than two groups have a value.

    Raises
    ------
    DataError
        Where ``values`` and ``groups`` are not two lists of one length.
    """
    array = np.asarray(values, np.float64)
    if array.shape != (len(groups),):
        raise DataError(f"values and groups: one group for each value is needed, not {len(groups)} for {array.shape}")
    sums, sizes = _sums_by_group(array, groups)
    if len(sizes) < 2:
        return np.nan, np.nan
    draws = _draws(len(sizes), seed)
    low, high = np.quantile((draws @ sums) / (draws @ sizes), (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)


def _differences(x: ArrayLike, y: ArrayLike) -> Floats:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(f"x and y: two lists of one length are needed, not shapes {first.shape} and {second.shape}")
    difference = first - second
    defined: Floats = difference[~np.isnan(difference)]
    return defined


# The ranking and the table of comparisons ask alike, and SciPy takes a second for 13 pairs of which two are tied.
@lru_cache(maxsize=10_000)
def _wilcoxon_p(differences: tuple[float, ...]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, zero_method="wilcox", method=METHOD).pvalue)


def _rank_biserial(differences: Floats) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(differences))
    return float(ranks @ np.sign(differences) / ranks.sum())


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else np.nan


def _median(values: Floats) -> float:
    return float(np.median(values)) if values.size else np.nan


def _sums_by_group(values: Floats, groups: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Return the sum and the number of the values of each group that has any."""
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        if not math.isnan(value):
            members.setdefault(group, []).append(value)
    return np.array([sum(m) for m in members.values()]), np.array([float(len(m)) for m in members.values()])


@lru_cache(maxsize=4)
def _draws(n: int, seed: int) -> Floats:
    """Return how often each of ``n`` groups is in each resample."""
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.asarray(draws, np.float64)
