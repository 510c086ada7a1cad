from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, wilcoxon

from crystalbench import DataError
from crystalbench.evaluation import (
    PairedComparison,
    SignedRankTest,
    bonferroni,
    can_pass,
    compare_all,
    holm,
    mean_interval,
    rank_intervals,
    signed_rank_test,
    smallest_p,
)

# Darwin's maize, the example of SciPy's documentation.
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75])
# Hollander and Wolfe 1973, the example of R's wilcox.test: p = 0.01953 one-sided.
DEPRESSION = (
    np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]),
    np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]),
)


def test_the_examples_of_scipy_and_r() -> None:
    maize = signed_rank_test(MAIZE, np.zeros(15))
    assert (maize.n, maize.n_different, maize.p) == (15, 15, 0.041259765625)
    assert maize.rank_biserial == (96 - 24) / 120
    assert (maize.method, maize.scipy) == ("auto", scipy.__version__)
    first, second = DEPRESSION
    assert signed_rank_test(first, second).p == pytest.approx(2 * 0.01953, abs=1e-5)
    assert signed_rank_test(second, first).rank_biserial == -signed_rank_test(first, second).rank_biserial


@pytest.mark.parametrize("n", [3, 8, 13, 14, 20, 49, 50, 51, 120])
@pytest.mark.parametrize("decimals", [1, 15], ids=["ties", "none tied"])
def test_p_is_that_of_scipy(n: int, decimals: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.random(n).round(decimals), rng.random(n).round(decimals)
    assert signed_rank_test(x, y).p == wilcoxon(np.round(x - y, 12), zero_method="wilcox").pvalue


@pytest.mark.parametrize("n", [0, 1, 3, 13, 14, 30, 51, 200])
def test_no_difference_has_p_1(n: int) -> None:
    x = np.linspace(0, 1, n)
    found = signed_rank_test(x, x)
    assert (found.n, found.n_different, found.p, found.rank_biserial) == (n, 0, 1.0, 0.0)


def test_noise_of_the_arithmetic_has_no_rank() -> None:
    x = np.random.default_rng(0).random(30)
    noisy = x + np.random.default_rng(1).uniform(0, 4e-13, 30)
    assert wilcoxon(noisy - x).pvalue < 1e-6
    assert (signed_rank_test(noisy, x).p, signed_rank_test(noisy, x).n_different) == (1.0, 0)
    # 0.1 + 0.2 is not 0.3: one difference of three is noise.
    assert signed_rank_test([0.1 + 0.2, 0.5, 0.7], [0.3, 0.4, 0.5]).n_different == 2


def test_undefined_pairs_are_left_out() -> None:
    x, y = [0.1, np.nan, 0.3, 0.9, 0.2], [0.5, 0.2, np.nan, 0.1, 0.6]
    assert signed_rank_test(x, y) == signed_rank_test([0.1, 0.9, 0.2], [0.5, 0.1, 0.6])


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([[1.0]], [[2.0]]), (1.0, 2.0)])
def test_what_is_not_two_lists_of_one_length_is_refused(x: object, y: object) -> None:
    with pytest.raises(DataError, match="x and y: two lists of one length"):
        signed_rank_test(x, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", range(1, 13))
def test_the_smallest_p_is_that_of_differences_of_one_sign(n: int) -> None:
    assert signed_rank_test(np.arange(1.0, n + 1), np.zeros(n)).p == pytest.approx(smallest_p(n), rel=1e-12)


def test_few_pairs_cannot_pass() -> None:
    assert (smallest_p(0), smallest_p(3), smallest_p(5), smallest_p(6)) == (1.0, 0.25, 0.0625, 0.03125)
    assert [can_pass(n, 1) for n in (3, 5, 6)] == [False, False, True]
    assert [can_pass(n, 28) for n in (10, 11)] == [False, True]


def test_holms_example() -> None:
    # The worked example of Wikipedia, "Holm-Bonferroni method".
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert bonferroni([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.04, 0.16, 0.12, 0.02], rel=1e-12)


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_steps_reject(p: list[float], level: float) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[index] * (len(p) - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(holm(p) <= level)) == rejected
    assert all(np.asarray(p) <= holm(p))
    assert all(holm(p) <= bonferroni(p))


def test_all_pairs_are_compared_and_corrected_together() -> None:
    scores = np.random.default_rng(0).random((4, 20)) + np.array([[0.0], [0.1], [0.3], [0.9]])
    scores[0, 3] = scores[2, 5] = np.nan
    found = compare_all(scores)
    assert [(c.a, c.b) for c in found] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [c.test.n for c in found] == [19, 18, 19, 19, 20, 19]
    p = []
    for c in found:
        difference = scores[c.a] - scores[c.b]
        difference = difference[~np.isnan(difference)]
        p.append(wilcoxon(np.round(difference, 12)).pvalue)
        assert (c.mean_difference, c.median_difference) == (difference.mean(), np.median(difference))
    assert [c.test.p for c in found] == p
    assert [c.p_holm for c in found] == holm(p).tolist()
    assert [c.p_bonferroni for c in found] == [min(1, 6 * value) for value in p]


def test_methods_without_a_common_image_are_not_told_apart() -> None:
    (found,) = compare_all([[1.0, np.nan], [np.nan, 0.0]])
    assert (found.test.n, found.test.p, found.told_apart) == (0, 1.0, False)
    assert np.isnan([found.mean_difference, found.median_difference]).all()
    assert compare_all(np.zeros((1, 3))) == compare_all([]) == []


def comparison(a: int, b: int, p: float = 0.001, effect: float = 1.0, mean: float = 0.1) -> PairedComparison:
    test = SignedRankTest(n=20, n_different=20, p=p, rank_biserial=effect, method="auto", scipy="")
    return PairedComparison(a, b, test, mean, mean, p, p)


def test_what_is_told_apart() -> None:
    assert comparison(0, 1).told_apart
    assert comparison(0, 1, p=0.05).told_apart
    assert not comparison(0, 1, p=0.051).told_apart
    assert not comparison(0, 1, effect=-0.5).told_apart
    assert comparison(0, 1, effect=-0.5, mean=-0.1).told_apart


def test_an_approximate_p_below_what_the_pairs_can_reach_tells_nothing_apart() -> None:
    # SciPy goes over to the normal approximation where some of more than 13 pairs are equal.
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, *[0.0] * 10])
    (found,) = compare_all([x, np.zeros(15)])
    assert found.p_holm <= 0.05 < smallest_p(5)
    assert not found.told_apart


def test_rank_intervals_span_what_is_not_told_apart() -> None:
    told = [comparison(0, 2), comparison(0, 3), comparison(1, 3)]
    close = [comparison(a, b, p=1.0) for a, b in ((0, 1), (1, 2), (2, 3))]
    assert rank_intervals([*told, *close], 4) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert rank_intervals([comparison(a, b) for a, b in ((0, 1), (0, 2), (1, 2))], 3) == [(1, 1), (2, 2), (3, 3)]
    assert rank_intervals([], 1) == [(1, 1)]


@given(st.lists(st.booleans(), min_size=10, max_size=10))
def test_two_that_are_not_told_apart_share_ranks(told: list[bool]) -> None:
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    found = [comparison(a, b, p=0.001 if apart else 1.0) for (a, b), apart in zip(pairs, told, strict=True)]
    intervals = rank_intervals(found, 5)
    assert all(first <= place <= last for place, (first, last) in enumerate(intervals, 1))
    for c in found:
        shared = max(intervals[c.a][0], intervals[c.b][0]) <= min(intervals[c.a][1], intervals[c.b][1])
        assert c.told_apart or shared


def test_the_interval_is_that_of_all_resamples_of_groups() -> None:
    values, groups = [0.2, 0.4, 0.9, 0.5, 0.7, 0.1], ["a", "a", "b", "c", "c", "c"]
    members = [[0.2, 0.4], [0.9], [0.5, 0.7, 0.1]]
    # All 27 resamples of three groups, as likely as each other.
    means = [np.mean([value for i in drawn for value in members[i]]) for drawn in product(range(3), repeat=3)]
    expected = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert mean_interval(values, groups) == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_interval_agrees_with_scipys_where_each_image_is_a_group() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=40)
    expected = bootstrap((values,), np.mean, n_resamples=40_000, method="percentile").confidence_interval
    assert mean_interval(values, range(40)) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_images_of_one_group_count_once() -> None:
    values = np.random.default_rng(4).random(15)
    one = mean_interval(values, range(15))
    assert mean_interval(np.repeat(values, 4), np.repeat(np.arange(15), 4).tolist()) == pytest.approx(one, rel=1e-12)
    low, high = mean_interval(np.repeat(values, 4), range(60))
    assert high - low < 0.7 * (one[1] - one[0])


def test_undefined_values_are_left_out_of_an_interval() -> None:
    values, groups = [0.2, np.nan, 0.9, 0.5, np.nan], ["a", "a", "b", "c", "d"]
    assert mean_interval(values, groups) == mean_interval([0.2, 0.9, 0.5], ["a", "b", "c"])


def test_intervals_repeat_and_follow_the_seed() -> None:
    values = np.random.default_rng(5).random(20)
    assert mean_interval(values, range(20)) == mean_interval(values, range(20))
    assert mean_interval(values, range(20), seed=1) != mean_interval(values, range(20))


@pytest.mark.parametrize(("values", "groups"), [([], ""), ([0.5], "a"), ([0.5, 0.7], "aa"), ([0.5, np.nan], "ab")])
def test_one_group_has_no_interval(values: list[float], groups: str) -> None:
    assert np.isnan(mean_interval(values, groups)).all()


def test_values_that_never_differ_have_an_interval_without_width() -> None:
    assert mean_interval([1.0] * 7, range(7)) == (1.0, 1.0)


def test_a_group_for_each_value_is_asked_for() -> None:
    with pytest.raises(DataError, match="one group for each value"):
        mean_interval([1.0, 2.0], ["a"])


def test_scipy_is_imported_when_a_test_is_made() -> None:
    code = "import sys, crystalbench.evaluation, crystalbench.leaderboard; sys.exit('scipy.stats' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
