from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from scipy.stats import wilcoxon
from test_leaderboard import control, crashed, record, save, text_of

from crystalbench._exceptions import UnknownNameError
from crystalbench.cli import main
from crystalbench.evaluation import holm, mean_interval
from crystalbench.experiment import Record
from crystalbench.leaderboard import comparison_table, comparisons, leaderboard, rows, to_markdown, to_table

PUBLISHED = Path(__file__).parents[1] / "leaderboard" / "records" / "demo"
RECORDS = sorted(file for file in PUBLISHED.glob("*/*.json") if len(file.stem) == 12)


def scored(pq: float | None) -> dict[str, Any]:
    """An image whose only crystal is met with this IoU; without one neither map has a crystal."""
    areas = [] if pq is None else [10_000]
    matches = [[round(10_000 * pq), 10_000]] if pq else []
    return {
        "matches": matches,
        "aji_intersection": sum(match[0] for match in matches),
        "aji_union": sum(areas),
        "areas_truth": areas,
        "areas_prediction": areas,
    }


def method(name: str, pq: Sequence[float | None], groups: Sequence[str] = (), **changes: Any) -> Record:
    images = [
        {"image": f"m{i:02}", "status": "ok", "group": group, "difficulty": 1, "scores": scored(value)}
        for i, (value, group) in enumerate(zip(pq, groups or map(str, range(len(pq))), strict=True))
    ]
    return record([], method=name, n_planned=len(pq), images=images, **changes)


def spread(mean: float, n: int = 20, seed: int = 0) -> list[float]:
    return (mean + np.random.default_rng(seed).uniform(-0.04, 0.04, n)).round(4).tolist()


def ranks(*records: Record) -> dict[str, str | None]:
    return {row.method: row.rank for row in rows(records)}


def test_what_a_test_tells_apart_has_ranks_of_its_own_and_what_none_does_shares_an_interval() -> None:
    close = [method("a", spread(0.8)), method("b", spread(0.801, seed=1)), method("c", spread(0.6, seed=2))]
    assert ranks(*close) == {"b": "1-2", "a": "1-2", "c": "3"}


def test_intervals_of_neighbours_overlap_where_only_the_ends_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    found = [
        method(name, (mean + rng.uniform(-0.06, 0.06, 20)).tolist())
        for name, mean in zip("abc", (0.8, 0.77, 0.74), strict=True)
    ]
    assert [c.told_apart for c in comparisons(rows(found))] == [False, True, False]
    assert ranks(*found) == {"a": "1-2", "b": "1-3", "c": "2-3"}


def test_the_same_scores_share_a_rank() -> None:
    assert ranks(method("a", spread(0.8)), method("b", spread(0.8))) == {"a": "1-2", "b": "1-2"}


def test_controls_and_partial_rows_take_no_part_in_the_tests() -> None:
    pair = [method("a", spread(0.8, 6)), method("b", spread(0.6, 6, seed=1))]
    others = [
        method("truth", [1.0] * 6, info={"name": "truth", "title": "Truth", "licence": "MIT", "control": True}),
        method("limited", [1.0] * 6, limit=6),
        crashed(method="broken"),
    ]
    # One comparison of six pairs can pass, one of several cannot.
    assert [c.p_holm for c in comparisons(rows([*pair, *others]))] == [0.03125]
    assert {name: rank for name, rank in ranks(*pair, *others).items() if rank} == {"a": "1", "b": "2"}


def test_where_no_test_can_pass_the_board_says_so() -> None:
    few = [method(name, spread(mean, 6)) for name, mean in zip("abc", (0.9, 0.8, 0.6), strict=True)]
    said = "Too few images for any test to pass: no p is below 0.031 with n = 6, before correction for 3 comparisons."
    assert ranks(*few) == {"a": "1-3", "b": "1-3", "c": "1-3"}
    for text in (to_markdown(rows(few)), text_of(to_table(rows(few)), 160), text_of(comparison_table(rows(few)), 160)):
        assert " ".join(text.split()).count(said) == 1
    assert "Too few" not in to_markdown(rows(few[:2]))
    assert "Too few" not in to_markdown(rows([method("a", spread(0.9, 3))]))


def test_images_without_a_pq_are_no_pairs() -> None:
    a, b = method("a", [*spread(0.9, 5), None]), method("b", [*spread(0.6, 5, seed=1), None])
    (found,) = comparisons(rows([a, b]))
    assert (found.n, found.p, found.told_apart) == (5, 0.0625, False)
    assert "with n = 5," in to_markdown(rows([a, b]))


def test_seeds_are_averaged_per_image_before_they_are_tested() -> None:
    scores = [spread(0.8), spread(0.7, seed=1), spread(0.76, seed=2)]
    found = [method("a", scores[0]), method("a", scores[1], seed=1), method("b", scores[2])]
    (pair,) = comparisons(rows(found))
    difference = np.round(np.mean(scores[:2], axis=0) - scores[2], 12)
    sign = 1 if pair.method_a == "a" else -1
    assert pair.n == 20
    assert pair.p == wilcoxon(difference).pvalue
    assert pair.median_difference == pytest.approx(sign * np.median(difference), abs=1e-12)


def test_intervals_are_by_group() -> None:
    a, b = spread(0.8, 24), spread(0.75, 24, seed=1)
    groups = [str(i // 6) for i in range(24)]
    single, (row, _) = rows([method("a", a)])[0], rows([method("a", a, groups), method("b", b, groups)])
    assert (row.pq_low, row.pq_high) == pytest.approx(mean_interval(a, groups), abs=1e-12)
    assert (single.pq_low, single.pq_high) == pytest.approx(mean_interval(a, range(24)), abs=1e-12)
    (pair,) = comparisons(rows([method("a", a, groups), method("b", b, groups)]))
    interval = mean_interval(np.subtract(a, b), groups)
    assert (pair.difference_low, pair.difference_high) == pytest.approx(interval, abs=1e-12)


def test_one_group_has_no_interval_on_the_board() -> None:
    (row,) = rows([method("a", spread(0.8), ["g"] * 20)])
    assert (row.pq_low, row.pq_high) == (None, None)


def test_the_published_board_again_from_its_records() -> None:
    told = [json.loads(file.read_text(encoding="utf-8")) for file in RECORDS]
    pq = {
        record["method"]: {image["image"]: literal_pq(image["scores"]) for image in record["images"]}
        for record in told
        if not record["info"]["control"]
    }
    found = comparisons(rows(map(Record.model_validate, told)))
    assert len(found) == len(pq) * (len(pq) - 1) // 2
    for pair in found:
        first, second = pq[pair.method_a], pq[pair.method_b]
        difference = np.array([first[name] - second[name] for name in first])
        assert pair.p == wilcoxon(np.round(difference, 12)).pvalue
        assert pair.mean_difference == pytest.approx(difference.mean(), abs=1e-12)
        assert difference.mean() >= 0
    assert [pair.p_holm for pair in found] == holm([pair.p for pair in found]).tolist()


def literal_pq(scores: dict[str, Any]) -> float:
    iou = sum(intersection / union for intersection, union in scores["matches"])
    return 2 * iou / (len(scores["areas_truth"]) + len(scores["areas_prediction"]))


def test_a_comparison_says_what_was_tested() -> None:
    found = rows([method("a", spread(0.9)), method("b", spread(0.6, seed=1))])
    (pair,) = comparisons(found)
    assert (pair.method_a, pair.method_b, pair.key_a, pair.key_b) == ("a", "b", found[0].key, found[1].key)
    assert pair.test == "wilcoxon, two-sided, zero_method wilcox"
    assert (pair.method, pair.scipy) == ("auto", scipy.__version__)
    assert (pair.n, pair.n_different, pair.smallest_p, pair.p) == (20, 20, 2.0**-19, 2.0**-19)
    assert (pair.rank_biserial, pair.told_apart, pair.note) == (1.0, True, None)


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        (spread(0.8), spread(0.8), "the same PQ on every image"),
        ([0.9, None], [None, 0.8], "no image on which both have a PQ"),
        ([0.9] * 10, [0.9] * 7 + [0.8] * 3, "PQ differs on 3 of 10 images alone: no p is below 0.25"),
        # Two losses by far outweigh eighteen small wins in the mean, not in the ranks.
        ([0.7 + 0.001 * i for i in range(18)] + [0.6] * 2, [0.69] * 18 + [0.99, 0.98], "ranks and means"),
    ],
)
def test_why_two_methods_are_not_told_apart(first: list[float], second: list[float], note: str) -> None:
    found = rows([method("a", first), method("b", second)])
    (pair,) = comparisons(found)
    assert note in (pair.note or "")
    assert not pair.told_apart
    assert note in text_of(comparison_table(found), 400)


def test_rows_of_one_name_are_told_by_their_settings() -> None:
    found = [method("a", spread(0.8), preset=preset) for preset in ("quick", "standard")]
    (pair,) = comparisons(rows(found))
    assert {pair.name_a, pair.name_b} == {"A [cpu, quick, random, 0]", "A [cpu, standard, random, 0]"}


def test_each_board_is_compared_by_itself() -> None:
    other = {"name": "tbm", "identity_sha256": "cd" * 32}
    found = [method(name, spread(0.8, seed=seed), **changes) for seed, (name, changes) in enumerate(
        [("a", {}), ("b", {}), ("a", {"dataset": other}), ("b", {"dataset": other})]
    )]  # fmt: skip
    assert [pair.dataset for pair in comparisons(rows(found))] == ["demo", "tbm"]


def test_the_command_prints_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = save(tmp_path / "runs", method("a", spread(0.9)), method("b", spread(0.6, seed=1)))
    assert main(["leaderboard", "--runs", str(runs), "--significance"]) == 0
    text = capsys.readouterr().out
    assert "PQ of pairs of methods: demo" in text
    assert f"SciPy {scipy.__version__}" in text
    assert "yes" in text
    out = tmp_path / "pairs.json"
    assert main(["leaderboard", "--runs", str(runs), "--significance", "--format", "json"]) == 0
    assert main(["leaderboard", "--runs", str(runs), "--significance", "--format", "json", "--out", str(out)]) == 0
    (pair,) = json.loads(capsys.readouterr().out)
    assert [pair] == json.loads(out.read_text(encoding="utf-8"))
    assert (pair["method_a"], pair["p_holm"], pair["told_apart"]) == ("a", 2.0**-19, True)


def test_comparisons_have_no_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = save(tmp_path, method("a", spread(0.9)))
    assert main(["leaderboard", "--runs", str(runs), "--significance", "--format", "csv"]) == 2
    assert "unknown format of comparisons 'csv'; known: json, table" in capsys.readouterr().err
    with pytest.raises(UnknownNameError, match="format of comparisons"):
        leaderboard([runs], format="latex", significance=True)


def test_one_ranked_row_has_nothing_to_be_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = save(tmp_path, method("a", spread(0.9)), control("truth", []))
    assert main(["leaderboard", "--runs", str(runs), "--significance"]) == 0
    assert "Nothing to compare" in capsys.readouterr().out
    assert json.loads(leaderboard([runs], format="json", significance=True) or "") == []
