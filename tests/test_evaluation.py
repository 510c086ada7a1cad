from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import crystalbench
from crystalbench._exceptions import LabelError
from crystalbench.evaluation import ImageScores, _compiled, _overlaps, cldice, evaluate, summarize
from crystalbench.evaluation._backend import kernels
from crystalbench.evaluation._scores import _best_pairs

VECTORS = SHARED / "vectors"
REFERENCE = json.loads((VECTORS / "reference.json").read_text()) if VECTORS.is_dir() else {}

EXACT = {
    "n_gt": "n_truth",
    "n_pred": "n_prediction",
    "tp": "tp",
    "fp": "fp",
    "fn": "fn",
    "aji_inter": "aji_intersection",
    "aji_union": "aji_union",
}
TO_1E12 = {
    "pq": "pq",
    "sq": "sq",
    "rq": "rq",
    "aji": "aji",
    "acs_gt": "acs_truth",
    "acs_pred": "acs_prediction",
}

EMPTY = np.zeros((4, 6), np.int32)
TWO = np.repeat(np.array([[1, 1, 0, 0, 2, 2]], np.int32), 4, axis=0)

SIDES = st.shared(st.tuples(st.integers(1, 9), st.integers(1, 9)))
MAPS = SIDES.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 5)))


def slow_reference(truth: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    """EVALUATION's definitions, word by word, one set of pixels for each crystal."""
    g, p = pixel_sets(truth), pixel_sets(prediction)
    iou = {(a, b): Fraction(len(g[a] & p[b]), len(g[a] | p[b])) for a in g for b in p}
    matches = [pair for pair, value in iou.items() if value > Fraction(1, 2)]
    half = Fraction(len(g) + len(p), 2)
    c, w, taken = 0, 0, set()
    for a in sorted(g):
        best = min((b for b in p if iou[a, b]), key=lambda b: (-iou[a, b], b), default=None)
        c += len(g[a] & p[best]) if best is not None else 0
        w += len(g[a] | p[best]) if best is not None else len(g[a])
        taken.add(best)
    w += sum(len(p[b]) for b in p if b not in taken)
    return {
        "matches": tuple(sorted((len(g[a] & p[b]), len(g[a] | p[b])) for a, b in matches)),
        "aji_intersection": c,
        "aji_union": w,
        "areas_truth": tuple(sorted(map(len, g.values()))),
        "areas_prediction": tuple(sorted(map(len, p.values()))),
        "pq": float(sum(iou[pair] for pair in matches) / half) if half else math.nan,
        "rq": float(len(matches) / half) if half else math.nan,
        "sq": float(sum(iou[pair] for pair in matches) / (len(matches) or 1)) if half else math.nan,
        "aji": c / w if w else math.nan,
        "acs_truth": mean_diameter(g),
        "acs_prediction": mean_diameter(p),
    }


def assert_like_the_slow_reference(scores: ImageScores, truth: np.ndarray, prediction: np.ndarray) -> None:
    for name, expected in slow_reference(truth, prediction).items():
        if isinstance(expected, float):
            assert getattr(scores, name) == pytest.approx(expected, rel=1e-12, nan_ok=True), name
        else:
            assert getattr(scores, name) == expected, name


def pixel_sets(labels: np.ndarray) -> dict[int, set[tuple[int, ...]]]:
    crystals: dict[int, set[tuple[int, ...]]] = {}
    for place, label in np.ndenumerate(labels):
        if label:
            crystals.setdefault(int(label), set()).add(place)
    return crystals


def mean_diameter(crystals: dict[int, set[tuple[int, ...]]]) -> float:
    diameters = [2 * math.sqrt(len(pixels) / math.pi) for pixels in crystals.values()]
    return sum(diameters) / len(diameters) if diameters else math.nan


def blobs(seed: int, shape: tuple[int, int] = (90, 120), crystals: int = 60) -> np.ndarray:
    """Touching crystals of random sizes: rectangles dropped over each other, some pixels taken out."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    for label in range(1, crystals + 1):
        top, left = rng.integers(0, shape)
        labels[top : top + rng.integers(1, 40), left : left + rng.integers(1, 40)] = label
    labels[rng.random(shape) < 0.05] = 0
    return labels


# Test vectors


@pytest.mark.skipif(not REFERENCE, reason=f"no test vectors in {VECTORS}")
@pytest.mark.parametrize("name", REFERENCE)
def test_scores_agree_with_exact_arithmetic(name: str) -> None:
    maps, expected = np.load(VECTORS / f"{name}.npz"), REFERENCE[name]
    scores = evaluate(maps["gt"], maps["pred"])
    assert {key: getattr(scores, ours) for key, ours in EXACT.items()} == {key: expected[key] for key in EXACT}
    for key, ours in TO_1E12.items():
        assert getattr(scores, ours) == pytest.approx(or_nan(expected[key]), rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.skipif(not REFERENCE, reason=f"no test vectors in {VECTORS}")
@pytest.mark.parametrize("name", [name for name, row in REFERENCE.items() if row["acs_abs_err"] is not None])
def test_crystal_size_errors_agree_to_1e_9_of_the_size(name: str) -> None:
    maps, expected = np.load(VECTORS / f"{name}.npz"), REFERENCE[name]
    scores = evaluate(maps["gt"], maps["pred"])
    assert scores.acs_error == pytest.approx(expected["acs_abs_err"], rel=0, abs=1e-9 * expected["acs_gt"])
    assert scores.acs_relative_error == pytest.approx(expected["acs_rel_err"], rel=0, abs=1e-9)
    assert scores.acs_bias == pytest.approx(expected["acs_pred"] - expected["acs_gt"], abs=1e-9)


def or_nan(value: float | None) -> float:
    return math.nan if value is None else value


# Edge cases


def test_no_prediction_counts_as_the_whole_error() -> None:
    scores = evaluate(TWO, EMPTY)
    assert (scores.pq, scores.sq, scores.rq, scores.aji) == (0, 0, 0, 0)
    assert scores.acs_error == scores.acs_truth == pytest.approx(2 * math.sqrt(8 / math.pi))
    assert scores.acs_relative_error == 1
    assert scores.acs_bias == -scores.acs_truth
    assert math.isnan(scores.acs_prediction)
    assert (scores.no_prediction, scores.undefined, scores.fn, scores.aji_union) == (True, False, 2, 16)


def test_crystals_where_the_truth_has_none() -> None:
    scores = evaluate(EMPTY, TWO)
    assert (scores.pq, scores.sq, scores.rq, scores.aji) == (0, 0, 0, 0)
    assert math.isnan(scores.acs_error)
    assert math.isnan(scores.acs_relative_error)
    assert math.isnan(scores.acs_bias)
    assert (scores.no_prediction, scores.undefined, scores.fp, scores.aji_union) == (False, True, 2, 16)


@pytest.mark.parametrize("shape", [(4, 6), (0, 5), (0, 0)])
def test_both_empty_is_undefined(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.uint8)
    scores = evaluate(empty, empty)
    floats = (
        "pq",
        "sq",
        "rq",
        "aji",
        "acs_truth",
        "acs_prediction",
        "acs_error",
        "acs_relative_error",
        "acs_bias",
    )
    assert all(math.isnan(getattr(scores, name)) for name in floats)
    assert (scores.undefined, scores.no_prediction) == (True, False)
    assert {scores.to_json()[name] for name in floats} == {None}


def test_an_iou_of_exactly_one_half_is_no_match() -> None:
    truth, prediction = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    assert evaluate(truth, prediction).tp == 0
    assert evaluate(np.array([[1, 1, 1]]), np.array([[1, 1, 0]])).matches == ((2, 3),)


def test_ties_of_the_jaccard_index_go_to_the_lowest_label() -> None:
    truth = np.array([[1, 1, 1, 0, 0, 0]])
    low_first, high_first = np.array([[3, 7, 7, 7, 7, 7]]), np.array([[7, 3, 3, 3, 3, 3]])
    assert evaluate(truth, np.array([[3, 0, 7, 0, 0, 0]])).aji == 1 / 4
    assert evaluate(truth, low_first).aji_intersection == 1
    assert evaluate(truth, high_first).aji_intersection == 2


def test_a_prediction_may_be_taken_twice_by_the_jaccard_index() -> None:
    scores = evaluate(np.array([[1, 1, 2, 2]]), np.array([[5, 5, 5, 5]]))
    assert (scores.aji_intersection, scores.aji_union) == (4, 8)


def test_best_iou_is_found_where_floats_cannot_tell() -> None:
    intersection = np.array([2**30, 2**30 + 1], np.int64)
    union = intersection + 1
    assert intersection[0] / union[0] == intersection[1] / union[1]
    assert _best_pairs(np.array([0, 0]), intersection, union).tolist() == [1]
    assert _best_pairs(np.array([0, 0]), intersection[::-1], union[::-1]).tolist() == [0]


# Properties


@settings(max_examples=300, deadline=None)
@given(MAPS, MAPS)
def test_agrees_with_the_slow_reference(truth: np.ndarray, prediction: np.ndarray) -> None:
    assert_like_the_slow_reference(evaluate(truth, prediction), truth, prediction)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_slow_reference_on_many_crystals(seed: int) -> None:
    truth, prediction = blobs(seed), blobs(seed + 100)
    prediction[:45] = truth[:45]
    scores = evaluate(truth, prediction)
    assert scores.tp > 5
    assert_like_the_slow_reference(scores, truth, prediction)


@settings(deadline=None)
@given(MAPS)
def test_the_truth_itself_is_perfect(truth: np.ndarray) -> None:
    scores = evaluate(truth, truth.copy())
    expected = pytest.approx(1.0 if truth.any() else math.nan, abs=0, nan_ok=True)
    assert [scores.pq, scores.sq, scores.rq, scores.aji] == [expected] * 4
    assert scores.acs_error == pytest.approx(0.0 if truth.any() else math.nan, abs=0, nan_ok=True)


@settings(deadline=None)
@given(MAPS, MAPS)
def test_panoptic_quality_is_symmetric(truth: np.ndarray, prediction: np.ndarray) -> None:
    forth, back = evaluate(truth, prediction), evaluate(prediction, truth)
    assert (forth.tp, forth.fp, forth.fn, forth.matches) == (back.tp, back.fn, back.fp, back.matches)
    assert [forth.pq, forth.sq, forth.rq] == [pytest.approx(x, abs=0, nan_ok=True) for x in (back.pq, back.sq, back.rq)]
    assert (forth.areas_truth, forth.areas_prediction) == (back.areas_prediction, back.areas_truth)


@settings(deadline=None)
@given(MAPS, MAPS, st.permutations(range(1, 6)), st.permutations(range(1, 6)))
def test_numbering_changes_nothing(truth: np.ndarray, prediction: np.ndarray, a: list[int], b: list[int]) -> None:
    plain = evaluate(truth, prediction)
    renumbered = evaluate(np.array([0, *a])[truth], np.array([0, *b])[prediction])
    assert (renumbered.matches, renumbered.areas_truth) == (plain.matches, plain.areas_truth)
    assert renumbered.areas_prediction == plain.areas_prediction
    assert evaluate(np.array([0, *a])[truth], prediction) == plain


GAPS = {
    "over 65535": np.array([0, 2, 70_000, 70_001, 90_000, 123_456], np.int32),
    "over 2^32": np.array([0, 1, 2**32, 2**32 + 1, 2**40, 2**62], np.int64),
    "over 2^63": np.array([0, 1, 2**53, 2**53 + 1, 2**63 + 1, 2**64 - 1], np.uint64),
}


@pytest.mark.parametrize("gaps", GAPS.values(), ids=GAPS.keys())
@settings(deadline=None)
@given(truth=MAPS, prediction=MAPS)
def test_gaps_in_the_numbering_change_nothing(gaps: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    plain = evaluate(truth, prediction)
    assert evaluate(gaps[truth], gaps[prediction]) == plain
    assert evaluate(gaps[truth], prediction) == plain
    assert evaluate(truth, gaps[prediction]) == plain


@settings(deadline=None)
@given(MAPS, MAPS, st.randoms(use_true_random=False))
def test_a_label_in_pieces_is_one_crystal(truth: np.ndarray, prediction: np.ndarray, random: Any) -> None:
    order = random.sample(range(truth.size), truth.size)
    scattered = [labels.ravel()[order].reshape(truth.shape) for labels in (truth, prediction)]
    assert evaluate(*scattered) == evaluate(truth, prediction)


@pytest.mark.parametrize("truth_dtype", ["u1", "<i2", ">u2", "<u4", ">i4", "<i8", ">u8"])
@pytest.mark.parametrize("prediction_dtype", ["i1", "<u8", ">i4"])
def test_integers_of_any_kind(truth_dtype: str, prediction_dtype: str) -> None:
    truth, prediction = blobs(1), blobs(2)
    assert evaluate(truth.astype(truth_dtype), prediction.astype(prediction_dtype)) == evaluate(truth, prediction)


def test_any_memory_order() -> None:
    truth, prediction = blobs(1), blobs(2)
    plain = evaluate(truth, prediction)
    strided = np.repeat(np.repeat(truth, 2, axis=0), 3, axis=1)[::2, ::3]
    assert not strided.flags.contiguous
    assert evaluate(strided, prediction) == plain
    assert evaluate(np.asfortranarray(truth), prediction) == plain
    assert evaluate(np.asfortranarray(truth), np.asfortranarray(prediction)) == plain
    assert evaluate(truth[::-1, ::-1], prediction[::-1, ::-1]) == plain
    assert evaluate(truth.T, prediction.T) == plain
    assert evaluate(truth.tolist(), prediction.tolist()) == plain


def test_maps_are_left_as_they_were() -> None:
    truth, prediction = blobs(1), blobs(2)
    truth.flags.writeable = prediction.flags.writeable = False
    assert evaluate(truth, prediction).n_truth > 0


# Compiled and not


def tables(truth: np.ndarray, prediction: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The overlap table by both ways, with the same pixels."""
    compiled = kernels()
    assert compiled is not None
    g, p = _overlaps._in_one_order(truth, prediction)
    return [vars(_overlaps._table(*pairs)) for pairs in (_overlaps._pairs(compiled, g, p), _overlaps._runs(g, p))]


def assert_both_ways_agree(truth: np.ndarray, prediction: np.ndarray) -> None:
    ours, plain = tables(truth, prediction)
    for name, column in ours.items():
        assert column.dtype == plain[name].dtype == np.int64
        assert np.array_equal(column, plain[name]), name


@settings(max_examples=300, deadline=None)
@given(MAPS, MAPS, st.sampled_from([None, *GAPS.values()]), st.booleans())
def test_both_ways_agree(truth: np.ndarray, prediction: np.ndarray, gaps: np.ndarray | None, turned: bool) -> None:
    maps = [labels if gaps is None else gaps[labels] for labels in (truth, prediction)]
    assert_both_ways_agree(*(np.asfortranarray(labels) if turned else labels for labels in maps))


@pytest.mark.parametrize("dtypes", ["u1 u1", "u1 i8", "i2 >u2", "u2 u4", ">i4 i4", "u8 i4", "i8 >u8"])
def test_both_ways_agree_on_every_type(dtypes: str) -> None:
    truth, prediction = (blobs(seed).astype(dtype) for seed, dtype in enumerate(dtypes.split()))
    assert_both_ways_agree(truth, prediction)
    assert_both_ways_agree(truth[::2, 1::3], prediction.T[1::3, ::2].T)


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, _compiled.LANES), (1, _compiled.LANES + 1), (300, 400)])
@pytest.mark.parametrize("labels", [2, 50, 2**62])
def test_both_ways_agree_on_blocks_and_full_tables(shape: tuple[int, int], labels: int) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, labels, (2, *shape)).repeat(3, axis=2)
    assert_both_ways_agree(truth, prediction)


def test_numba_is_loaded_for_the_second_large_map() -> None:
    found = run_python(
        "import sys, numpy as np\n"
        "from crystalbench.evaluation import evaluate\n"
        "labels = np.ones((1800, 1800), np.uint8)\n"
        "first = evaluate(labels, labels), 'numba' in sys.modules\n"
        "print(first == (evaluate(labels, labels), False), 'numba' in sys.modules)\n"
    )
    assert found == "True True\n"


WITHOUT_NUMBA = (
    "import numpy as np\n"
    "from crystalbench.evaluation import _backend, cldice, evaluate\n"
    "_backend.PAYS_AFTER_PX = 0\n"
    "truth = np.arange(1600).reshape(40, 40) // 90 + 1\n"
    "print(_backend.kernels(), evaluate(truth, truth.T).to_row(), cldice(truth, truth.T))"
)


def numbers_without_numba() -> str:
    truth = np.arange(1600).reshape(40, 40) // 90 + 1
    return f"None {evaluate(truth, truth.T).to_row()} {cldice(truth, truth.T)}\n"


def test_numbers_are_the_same_where_numba_is_not_installed() -> None:
    assert run_python("import sys; sys.modules['numba'] = None\n" + WITHOUT_NUMBA) == numbers_without_numba()


def test_numbers_are_the_same_where_numba_can_write_no_cache(tmp_path: Path) -> None:
    package = Path(crystalbench.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / package.name / "evaluation" / "__pycache__").touch()
    nowhere = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{WITHOUT_NUMBA}"
    assert run_python(code, **nowhere) == numbers_without_numba()


def run_python(code: str, **environment: str) -> str:
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout


# Errors


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (TWO.astype(float), TWO, "the truth holds float64 values"),
        (TWO, TWO.astype(np.float32), "the prediction holds float32 values"),
        (TWO > 0, TWO, "the truth holds bool values"),
        (TWO, np.array([["1"]]), "the prediction holds <U1 values"),
        (TWO, TWO - 1, "the prediction holds the negative value -1"),
        (TWO[..., None], TWO, "the truth has 3 dimensions"),
        (TWO, TWO[0], "the prediction has 1 dimensions"),
        (TWO, TWO.T, "the truth is 4 x 6 pixels and the prediction 6 x 4"),
    ],
)
def test_what_is_no_label_map_is_refused(truth: Any, prediction: Any, message: str) -> None:
    with pytest.raises(LabelError) as caught:
        evaluate(truth, prediction)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Rows


def test_scores_come_back_from_their_row() -> None:
    scores = evaluate(blobs(1), blobs(2))
    row = json.loads(json.dumps(scores.to_row()))
    assert ImageScores.from_row(row) == scores
    assert ImageScores.from_row(row).to_json() == scores.to_json()


def test_a_row_holds_integers_alone() -> None:
    row = evaluate(blobs(1), blobs(2)).to_row()
    kinds = Counter(type(value) for entry in row.values() for value in np.ravel(np.array(entry, dtype=object)))
    assert set(kinds) == {int}
    assert row["tp"] == len(row["matches"])
    assert row["n_truth"] == row["tp"] + row["fn"] == len(row["areas_truth"])
    assert row["n_prediction"] == row["tp"] + row["fp"] == len(row["areas_prediction"])


def test_scores_cannot_be_changed() -> None:
    scores = evaluate(TWO, TWO)
    with pytest.raises(AttributeError):
        scores.aji_union = 0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        scores.pq = 1.0  # type: ignore[misc]


# Over images


def some_images() -> list[ImageScores]:
    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(4)]
    pairs += [(blobs(9), blobs(9)), (TWO, EMPTY), (EMPTY, TWO), (EMPTY, EMPTY)]
    return [evaluate(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("mean", "std", "score"),
    [
        ("pq", "pq_std", "pq"),
        ("aji", "aji_std", "aji"),
        ("acs", "acs_std", "acs_prediction"),
        ("acs_truth", "acs_truth_std", "acs_truth"),
        ("mre_acs", "mre_acs_std", "acs_relative_error"),
        ("mae_acs", None, "acs_error"),
        ("sq", None, "sq"),
        ("rq", None, "rq"),
    ],
)
def test_means_leave_out_what_is_undefined(mean: str, std: str | None, score: str) -> None:
    scores = some_images()
    values = np.array([getattr(image, score) for image in scores])
    assert np.isnan(values).any()
    assert getattr(summarize(scores), mean) == pytest.approx(np.nanmean(values), rel=1e-12)
    if std:
        assert getattr(summarize(scores), std) == pytest.approx(np.nanstd(values, ddof=1), rel=1e-12)


def test_a_summary_counts_the_edge_cases() -> None:
    summary = summarize(some_images())
    assert (summary.n_images, summary.n_undefined, summary.n_no_prediction) == (8, 2, 1)


def test_pooled_quality_is_that_of_one_large_image() -> None:
    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(3)]
    truth, prediction = (
        np.concatenate([np.where(pair[side], pair[side] + 1000 * i, 0) for i, pair in enumerate(pairs)])
        for side in (0, 1)
    )
    summary = summarize([evaluate(*pair) for pair in pairs])
    assert summary.pq_pooled == pytest.approx(evaluate(truth, prediction).pq, rel=1e-12)
    assert summary.pq_pooled != summary.pq


def test_a_summary_follows_from_the_rows_in_any_order() -> None:
    scores = some_images()
    rows = json.loads(json.dumps([image.to_row() for image in scores]))
    assert summarize([ImageScores.from_row(row) for row in reversed(rows)]) == summarize(scores)


def test_one_image_has_no_deviation() -> None:
    summary = summarize([evaluate(TWO, TWO)])
    assert summary.pq == 1
    assert math.isnan(summary.pq_std)
    assert summary.to_json()["pq_std"] is None
    assert summary.to_json()["n_undefined"] == 0


def test_no_image_has_no_scores() -> None:
    summary = json.loads(json.dumps(summarize([]).to_json(), allow_nan=False))
    assert summary.pop("n_images") == summary.pop("n_undefined") == summary.pop("n_no_prediction") == 0
    assert set(summary.values()) == {None}
