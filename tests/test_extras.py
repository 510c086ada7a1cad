from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage.measure import regionprops
from test_evaluation import EMPTY, GAPS, MAPS, TWO, VECTORS, blobs, pixel_sets

from crystalbench import LabelError
from crystalbench.data import open_dataset
from crystalbench.evaluation import ImageExtras, _overlaps, evaluate, evaluate_extras, scores_by_length
from crystalbench.evaluation._summary import summarize_extras

REAL = ("tbm", "ffc_iron", "imagegrains")


def literal_aji_plus(truth: np.ndarray, prediction: np.ndarray) -> tuple[int, int]:
    """C and W of every assignment, one by one: the best by the sum of IoU, then by C."""
    g, p = (list(pixel_sets(labels).values()) for labels in (truth, prediction))
    g, p = (side + [set()] * (max(len(g), len(p)) - len(side)) for side in (g, p))
    shared = [[len(a & b) for b in p] for a in g]
    iou = [[Fraction(len(a & b), len(a | b) or 1) for b in p] for a in g]
    chosen = max(
        itertools.permutations(range(len(p))),
        key=lambda order: (
            sum((iou[i][j] for i, j in enumerate(order)), Fraction(0)),
            sum(shared[i][j] for i, j in enumerate(order)),
        ),
    )
    pairs = [(a, p[j]) if a & p[j] else (a, set()) for a, j in zip(g, chosen, strict=True)]
    alone = [b for i, j in enumerate(chosen) if not g[i] & (b := p[j])]
    return sum(len(a & b) for a, b in pairs), sum(len(a | b) for a, b in pairs) + sum(map(len, alone))


def literal_splits(truth: np.ndarray, prediction: np.ndarray) -> int:
    g, p = pixel_sets(truth).values(), pixel_sets(prediction).values()
    return sum(
        sum(Fraction(len(a & b), len(b)) > Fraction(1, 2) and len(a & b) >= Fraction(len(a), 20) for b in p) >= 2
        for a in g
    )


def literal_octaves(images: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[int, tuple[int, int, int]]:
    """TP, FP and FN by octave, one pair of crystals at a time."""
    found: dict[int, Counter[str]] = {}
    for truth, prediction in images:
        g, p = regionprops(truth), regionprops(prediction)
        matched = {
            (a.label, b.label)
            for a in g
            for b in p
            if 2 * np.sum((truth == a.label) & (prediction == b.label))
            > np.sum((truth == a.label) | (prediction == b.label))
        }
        for crystals, side, missing in ((g, 0, "fn"), (p, 1, "fp")):
            for crystal in crystals:
                hit = crystal.label in {pair[side] for pair in matched}
                if hit and missing == "fp":
                    continue
                top, left, bottom, right = crystal.bbox
                octave = 2 ** math.floor(math.log2(max(bottom - top, right - left)))
                found.setdefault(octave, Counter())["tp" if hit else missing] += 1
    return {octave: (counts["tp"], counts["fp"], counts["fn"]) for octave, counts in sorted(found.items())}


# AJI+


def test_each_crystal_is_paired_once_by_hand() -> None:
    # AJI takes the prediction twice: 4 / 8.
    extras = evaluate_extras(np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]]))
    assert (extras.aji_plus_intersection, extras.aji_plus_union) == (2, 4 + 2)
    assert extras.scores.aji == 1 / 2


def test_pairs_are_those_of_the_highest_sum_not_the_best_one_by_one() -> None:
    truth = np.array([[1] * 100 + [2] * 33])
    prediction = np.array([[7] * 67 + [8] * 33 + [7] * 33])
    # Over half of the union of 1 and 7, so a match; but 1 with 8 and 2 with 7 come to 2 x 0.33.
    extras = evaluate_extras(truth, prediction)
    assert extras.scores.matches == ((67, 133),)
    assert (extras.aji_plus_intersection, extras.aji_plus_union) == (33 + 33, 100 + 100)


def test_of_equal_sums_the_larger_intersection_counts() -> None:
    for low, high in ((3, 7), (7, 3)):
        extras = evaluate_extras(np.array([[1, 1, 1, 0, 0, 0]]), np.array([[low, high, high, high, high, high]]))
        # IoU 1/3 = 2/6.
        assert extras.aji_plus_intersection == 2


@settings(max_examples=150, deadline=None)
@given(MAPS, MAPS)
def test_aji_plus_is_the_best_of_all_assignments(truth: np.ndarray, prediction: np.ndarray) -> None:
    extras = evaluate_extras(truth, prediction)
    assert (extras.aji_plus_intersection, extras.aji_plus_union) == literal_aji_plus(truth, prediction)


@pytest.mark.parametrize("seed", range(4))
def test_aji_plus_agrees_with_the_dense_assignment(seed: int) -> None:
    truth, prediction = blobs(seed), blobs(seed + 100)
    prediction[:45] = truth[:45]
    g, p = (list(pixel_sets(labels).values()) for labels in (truth, prediction))
    iou = np.array([[len(a & b) / len(a | b) for b in p] for a in g])
    shared = np.array([[len(a & b) for b in p] for a in g])
    assert evaluate_extras(truth, prediction).aji_plus_intersection == shared[linear_sum_assignment(-iou)].sum()


# Splits and merges


def test_splits_and_merges_by_hand() -> None:
    whole, halves = np.ones((10, 10), int), np.ones((10, 10), int)
    halves[:, 5:] = 2
    forth, back = evaluate_extras(whole, halves), evaluate_extras(halves, whole)
    assert (forth.splits, forth.merges) == (1, 0)
    assert (back.splits, back.merges) == (0, 1)


@pytest.mark.parametrize(("pixels", "splits"), [(5, 1), (4, 0)])
def test_a_part_covers_at_least_a_twentieth(pixels: int, splits: int) -> None:
    truth = np.ones((1, 100), int)
    prediction = np.where(np.arange(100) < pixels, 1, 2)[None]
    assert evaluate_extras(truth, prediction).splits == splits


@pytest.mark.parametrize(("outside", "splits"), [(19, 1), (20, 0)])
def test_a_part_lies_inside_with_more_than_half_of_its_area(outside: int, splits: int) -> None:
    truth, prediction = np.zeros((2, 1, 200), int)
    truth[0, :100] = 1
    prediction[0, :80] = 1
    prediction[0, 80 : 100 + outside] = 2
    assert evaluate_extras(truth, prediction).splits == splits


def test_crystal_size_is_blind_where_merges_cancel_splits() -> None:
    truth, prediction = np.ones((2, 10, 40), int)
    truth[:, 20:30], truth[:, 30:] = 2, 3
    prediction[:, 10:20], prediction[:, 20:] = 2, 3
    extras = evaluate_extras(truth, prediction)
    assert extras.scores.acs_error == 0
    assert extras.dg == 0
    assert extras.scores.pq == 0
    assert (extras.splits, extras.merges) == (1, 1)


@settings(max_examples=200, deadline=None)
@given(MAPS, MAPS)
def test_splits_and_merges_agree_with_sets_of_pixels(truth: np.ndarray, prediction: np.ndarray) -> None:
    extras = evaluate_extras(truth, prediction)
    assert extras.splits == literal_splits(truth, prediction)
    assert extras.merges == literal_splits(prediction, truth)


# By length


def test_octaves_by_hand() -> None:
    truth = np.zeros((40, 40), int)
    truth[:8, :3], truth[10:17, :5], truth[20:36, :16], truth[0, 30:37] = 1, 2, 3, 4
    prediction = np.zeros_like(truth)
    # 1 is found with 18 of 24 px, 2 is missed, 3 is found whole, 4 is found with 6 of 7; one of length 8 is surplus.
    prediction[:6, :3], prediction[20:36, :16], prediction[0, 31:37], prediction[30:32, 30:38] = 9, 8, 7, 6
    found = scores_by_length([evaluate_extras(truth, prediction)])
    assert [(octave.shortest_px, octave.tp, octave.fp, octave.fn) for octave in found] == [
        (4, 1, 0, 1),
        (8, 1, 1, 0),
        (16, 1, 0, 0),
    ]
    assert [octave.recall for octave in found] == [1 / 2, 1, 1]
    assert [octave.pq for octave in found] == [
        pytest.approx(6 / 7 / 1.5),
        pytest.approx(18 / 24 / 1.5),
        1,
    ]


def test_an_octave_of_surplus_crystals_has_no_recall() -> None:
    (octave,) = scores_by_length([evaluate_extras(EMPTY, TWO)])
    assert (octave.shortest_px, octave.pq) == (4, 0)
    assert math.isnan(octave.recall)
    assert evaluate_extras(EMPTY, TWO).to_json()["recall_by_length"] == {"4": None}


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 1023, 1024])
def test_an_octave_starts_at_a_power_of_two(length: int) -> None:
    labels = np.ones((1, length), int)
    (octave,) = scores_by_length([evaluate_extras(labels, labels)])
    assert octave.shortest_px <= length < 2 * octave.shortest_px
    assert math.log2(octave.shortest_px).is_integer()


@settings(max_examples=100, deadline=None)
@given(MAPS, MAPS)
def test_octaves_agree_with_pairs_of_crystals(truth: np.ndarray, prediction: np.ndarray) -> None:
    pairs = [(truth, prediction), (prediction, truth), (truth, truth)]
    images = [evaluate_extras(*pair) for pair in pairs]
    found = {o.shortest_px: (o.tp, o.fp, o.fn) for o in scores_by_length(images)}
    assert found == literal_octaves(pairs)
    assert scores_by_length(reversed(images)) == scores_by_length(images)


@settings(deadline=None)
@given(MAPS, MAPS)
def test_octaves_together_are_the_whole(truth: np.ndarray, prediction: np.ndarray) -> None:
    extras = evaluate_extras(truth, prediction)
    octaves, scores = scores_by_length([extras]), extras.scores
    assert sum(octave.tp for octave in octaves) == scores.tp
    assert sum(octave.fp for octave in octaves) == scores.fp
    assert sum(octave.fn for octave in octaves) == scores.fn
    halves = scores.tp + scores.fp / 2 + scores.fn / 2
    if halves:
        assert sum(octave.iou_sum for octave in octaves) / halves == pytest.approx(scores.pq)


# Properties


@settings(deadline=None)
@given(MAPS, MAPS, st.permutations(range(1, 6)), st.permutations(range(1, 6)))
def test_numbering_changes_nothing(truth: np.ndarray, prediction: np.ndarray, a: list[int], b: list[int]) -> None:
    plain = evaluate_extras(truth, prediction)
    renumbered = evaluate_extras(np.array([0, *a])[truth], np.array([0, *b])[prediction])
    assert renumbered.to_row() == plain.to_row()
    assert renumbered.to_json() == plain.to_json()


@settings(deadline=None)
@given(MAPS, MAPS)
def test_turning_changes_nothing(truth: np.ndarray, prediction: np.ndarray) -> None:
    plain = evaluate_extras(truth, prediction)
    assert evaluate_extras(truth.T, prediction.T) == plain
    assert evaluate_extras(truth[::-1], prediction[::-1]) == plain


@settings(deadline=None)
@given(MAPS, MAPS)
def test_truth_and_prediction_change_places(truth: np.ndarray, prediction: np.ndarray) -> None:
    forth, back = evaluate_extras(truth, prediction), evaluate_extras(prediction, truth)
    assert (forth.splits, forth.merges) == (back.merges, back.splits)
    assert forth.aji_plus == pytest.approx(back.aji_plus, abs=0, nan_ok=True)
    assert forth.dg == pytest.approx(-back.dg, nan_ok=True)
    assert (forth.lengths_missed, forth.lengths_surplus) == (back.lengths_surplus, back.lengths_missed)


@pytest.mark.parametrize("gaps", GAPS.values(), ids=GAPS.keys())
def test_any_integers_in_any_order(gaps: np.ndarray) -> None:
    truth, prediction = blobs(1, crystals=5), blobs(2, crystals=5)
    plain = evaluate_extras(truth, prediction)
    assert evaluate_extras(gaps[truth], gaps[prediction]) == plain
    assert evaluate_extras(np.asfortranarray(truth).astype(">i4"), prediction.tolist()) == plain


@settings(deadline=None)
@given(MAPS, MAPS)
def test_the_scores_are_those_of_evaluate(truth: np.ndarray, prediction: np.ndarray) -> None:
    assert evaluate_extras(truth, prediction).scores == evaluate(truth, prediction)


@pytest.mark.parametrize("seed", range(3))
def test_numba_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, prediction = blobs(seed), blobs(seed + 1)
    compiled = _overlaps.kernels_for_overlaps(2**30)
    assert compiled is not None
    monkeypatch.setattr(_overlaps, "kernels_for_overlaps", lambda _: compiled)
    with_numba = evaluate_extras(truth, prediction)
    monkeypatch.setattr(_overlaps, "kernels_for_overlaps", lambda _: None)
    assert evaluate_extras(truth, prediction) == with_numba


def test_edge_cases() -> None:
    nothing, surplus, empty = (evaluate_extras(*pair) for pair in ((TWO, EMPTY), (EMPTY, TWO), (EMPTY, EMPTY)))
    assert (nothing.aji_plus, surplus.aji_plus) == (0, 0)
    assert math.isnan(empty.aji_plus)
    assert all(math.isnan(extras.dg) for extras in (nothing, surplus, empty))
    assert empty.to_json() == {
        "aji_plus": None, "splits": 0, "merges": 0, "dg": None, "pq_by_length": {}, "recall_by_length": {},
    }  # fmt: skip
    assert evaluate_extras(np.zeros((0, 5), int), np.zeros((0, 5), int)).splits == 0


def test_what_is_no_label_map_is_refused() -> None:
    with pytest.raises(LabelError, match="the prediction holds the negative value -1"):
        evaluate_extras(TWO, -TWO // 2)


# Rows


def test_extras_come_back_from_their_rows() -> None:
    extras = evaluate_extras(blobs(1), blobs(2))
    row = json.loads(json.dumps(extras.to_row()))
    assert ImageExtras.from_row(evaluate(blobs(1), blobs(2)), row) == extras
    kinds = {type(value) for entry in row.values() for value in (entry if isinstance(entry, list) else [entry])}
    assert kinds == {int}
    assert not row.keys() & extras.scores.to_row().keys()


def test_means_over_images_leave_out_what_is_undefined() -> None:
    pairs = [(blobs(1), blobs(51)), (blobs(2), blobs(52)), (TWO, EMPTY), (EMPTY, EMPTY)]
    images = [evaluate_extras(*pair) for pair in pairs]
    found = summarize_extras(images)
    assert found["aji_plus"] == pytest.approx(np.mean([image.aji_plus for image in images[:3]]))
    assert found["dg"] == pytest.approx(np.mean([image.dg for image in images[:2]]))
    assert found["splits"] == np.mean([image.splits for image in images])
    assert found["recall_by_length"] == {
        str(o.shortest_px): None if math.isnan(o.recall) else o.recall for o in scores_by_length(images)
    }
    assert summarize_extras([])["aji_plus"] is None


# Real maps


@pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no test vectors in {VECTORS}")
def test_a_crystal_in_three_is_one_split() -> None:
    maps = np.load(VECTORS / "split_three.npz")
    assert evaluate_extras(maps["gt"], maps["pred"]).splits == 1


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no data sets in {SHARED}")
@pytest.mark.parametrize("name", REAL)
def test_truth_of_real_sets_with_crystals_taken_together(name: str) -> None:
    for sample in open_dataset(SHARED / "data" / name).samples[:3]:
        truth = sample.label
        itself = evaluate_extras(truth, truth)
        assert (itself.aji_plus, itself.splits, itself.merges, itself.dg) == (1, 0, 0, 0)
        assert {octave.pq for octave in scores_by_length([itself])} == {1}
        largest = np.bincount(truth.ravel())[1:].argsort()[-2:] + 1
        joined = np.where(np.isin(truth, largest), largest[0], truth)
        assert (evaluate_extras(joined, truth).splits, evaluate_extras(truth, joined).splits) == (1, 0)
        assert (evaluate_extras(truth, joined).merges, evaluate_extras(joined, truth).merges) == (1, 0)
        assert evaluate_extras(truth, joined).dg < 0
