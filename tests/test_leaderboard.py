from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from crystalbench._exceptions import ConfigurationError, UnknownNameError
from crystalbench._files import canonical_json, sha256, write_json
from crystalbench.evaluation import evaluate, evaluate_extras, scores_by_length
from crystalbench.experiment._record import Record
from crystalbench.leaderboard import leaderboard, load_records, rows, to_csv, to_json, to_markdown, to_table

Map = NDArray[np.int32]
# fmt: off
KEYS = {
    "method", "title", "dataset", "split", "preset", "seeds", "n_images", "n_failed", "n_undefined",
    "partial", "status", "rank", "pq", "pq_std", "pq_pooled", "sq", "rq", "aji", "aji_std", "acs",
    "acs_std", "acs_truth", "acs_truth_std", "mae_acs", "mre_acs", "mre_acs_std", "by_class",
    "parameters", "input_size", "image_rescaling", "multi_scale", "fusion", "latency_s",
    "latency_stages", "latency_reference_s", "device", "precision", "weights", "train_dataset",
    "control", "key", "warnings", "pq_low", "pq_high", "aji_plus", "splits", "merges", "dg", "pq_by_length",
    "recall_by_length",
}
# fmt: on
EMPTY = np.zeros((48, 48), np.int32)


def grid(n: int, size: int = 48) -> Map:
    """n x n touching crystals."""
    band = np.arange(size) * n // size
    return (band[:, None] * n + band + 1).astype(np.int32)


def shifted(labels: Map, by: int) -> Map:
    moved = np.zeros_like(labels)
    moved[by:] = labels[: labels.shape[0] - by]
    return moved


TRUTHS = [grid(2), grid(3), grid(4), grid(5), EMPTY]
CLASSES = [1, 2, 3, 1, 1]
EXACT = [t.copy() for t in TRUTHS]
CLOSE = [shifted(t, 3) for t in TRUTHS]
FAR = [shifted(t, 5) for t in TRUTHS]


def image_records(predictions: Sequence[Map | None]) -> list[dict[str, Any]]:
    """None stands for an image that failed."""
    return [
        {
            "image": f"m{i}",
            "status": "failed" if p is None else "ok",
            "error": "ValueError: no crystals" if p is None else None,
            "group": f"g{i}",
            "difficulty": CLASSES[i],
            "scores": None if p is None else evaluate(TRUTHS[i], p).to_row(),
        }
        for i, p in enumerate(predictions)
    ]


def record(predictions: Sequence[Map | None] = CLOSE, *, method: str = "sima", seed: int = 0, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "method": method,
        "info": {
            "name": method,
            "title": method.title(),
            "licence": "BSD-3-Clause",
            "parameters": 12_151_238,
        },
        "preset": "quick",
        "parameters": {"train": {"cp": {"lr": 0.1}}, "infer": {"fusion": "attention"}, "decode": {}},
        "dataset": {"name": "demo", "line_px": 5, "class_px": 112, "identity_sha256": "ab" * 32},
        "split": {"name": "fixed", "subset": "test"},
        "seed": seed,
        "device": "cpu",
        "device_name": "a processor",
        "threads": 2,
        "status": "ok",
        "trainings": {"cp": {"key": "c" * 64, "weights": "random", "seconds": 1.0, "steps": 10}},
        "n_planned": len(TRUTHS),
        "images": image_records(predictions),
        "provenance": {"end": "2025-01-01T00:00:00+00:00"},
    }
    values |= changes
    return Record.model_validate({"key": sha256(canonical_json(values)), **values})


def control(method: str, predictions: Sequence[Map]) -> Record:
    info = {"name": method, "title": method.title(), "licence": "Apache-2.0", "control": True}
    return record(predictions, method=method, info=info, trainings={})


def crashed(seed: int = 0, **changes: Any) -> Record:
    error = {"type": "ValueError", "message": "the loss is\nnot finite", "log_tail": "..."}
    return record([], seed=seed, status="failed", error=error, trainings={}, **changes)


def save(root: Path, *records: Record) -> Path:
    for r in records:
        write_json(root / r.dataset.name / r.method / r.key[:12] / "record.json", r.model_dump(mode="json"))
    return root


def text_of(table: Any, width: int) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def literal_scores(truth: Map, prediction: Map) -> dict[str, float]:
    """PQ, AJI and ACS from masks, one pair at a time."""
    g = [truth == i for i in np.unique(truth[truth > 0])]
    p = [prediction == i for i in np.unique(prediction[prediction > 0])]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in p] for a in g]).reshape(len(g), len(p))
    matched = iou[iou > 0.5]
    out = dict.fromkeys(["pq", "sq", "rq", "aji", "acs", "acs_truth", "mae_acs", "mre_acs"], np.nan)
    out |= {"iou_sum": float(matched.sum()), "crystals": float(len(g) + len(p))}
    if g or p:
        out["pq"] = 2 * matched.sum() / (len(g) + len(p))
        out["rq"] = 2 * len(matched) / (len(g) + len(p))
        out["sq"] = matched.mean() if len(matched) else 0.0
        out["aji"] = literal_aji(g, p, iou)
    if p:
        out["acs"] = np.mean([2 * np.sqrt(b.sum() / np.pi) for b in p])
    if g:
        out["acs_truth"] = np.mean([2 * np.sqrt(a.sum() / np.pi) for a in g])
        out["mae_acs"] = abs((out["acs"] if p else 0) - out["acs_truth"])
        out["mre_acs"] = out["mae_acs"] / out["acs_truth"]
    return out


def literal_aji(g: list[Any], p: list[Any], iou: NDArray[np.float64]) -> float:
    taken: set[int] = set()
    c = w = 0
    for i, a in enumerate(g):
        j = int(iou[i].argmax()) if p else -1
        if j < 0 or iou[i, j] == 0:
            w += a.sum()
            continue
        taken.add(j)
        c, w = c + (a & p[j]).sum(), w + (a | p[j]).sum()
    w += sum(b.sum() for j, b in enumerate(p) if j not in taken)
    return float(c / w)


def expected(images: Iterable[int], *seeds: Sequence[Map]) -> dict[str, float | None]:
    per_image = [[literal_scores(TRUTHS[i], predictions[i]) for predictions in seeds] for i in images]
    values: dict[str, float] = {}
    for name in ("pq", "sq", "rq", "aji", "acs", "acs_truth", "mae_acs", "mre_acs"):
        table = np.array([[s[name] for s in row] for row in per_image])
        means = np.array([row[~np.isnan(row)].mean() for row in table if not np.isnan(row).all()])
        values[name] = means.mean() if len(means) else np.nan
        values[f"{name}_std"] = means.std(ddof=1) if len(means) > 1 else np.nan
    flat = [s for row in per_image for s in row]
    values["pq_pooled"] = 2 * sum(s["iou_sum"] for s in flat) / sum(s["crystals"] for s in flat)
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def assert_scores(row: dict[str, Any], want: dict[str, float | None]) -> None:
    checked = {name: row[name] for name in want if name in row}
    assert len(checked) == 14
    assert checked == {name: pytest.approx(want[name], abs=1e-9) for name in checked}


def test_scores_of_one_record_are_those_of_the_label_maps() -> None:
    (row,) = json.loads(to_json(rows([record(CLOSE)])))
    assert row.keys() >= KEYS
    assert_scores(row, expected(range(5), CLOSE))
    assert 0 < row["pq"] < 1
    assert row["pq"] != pytest.approx(row["pq_pooled"], abs=1e-3)
    assert (row["n_images"], row["n_failed"], row["n_undefined"]) == (5, 0, 1)
    assert (row["rank"], row["status"], row["partial"]) == ("1", "ok", False)
    assert 0 < row["pq_low"] < row["pq"] < row["pq_high"] < 1
    assert "images" not in row
    assert (row["parameters"], row["weights"], row["seeds"]) == (12_151_238, "random", [0])


FURTHER = {"aji_plus", "splits", "merges", "dg", "pq_by_length", "recall_by_length"}


def with_extras(predictions: Sequence[Map | None], **changes: Any) -> Record:
    images = image_records(predictions)
    for image, truth, prediction in zip(images, TRUTHS, predictions, strict=True):
        image["extras"] = None if prediction is None else evaluate_extras(truth, prediction).to_row()
    return record(predictions, images=images, **changes)


def test_further_scores_follow_from_the_record() -> None:
    (row,) = json.loads(to_json(rows([with_extras(FAR)])))
    images = [evaluate_extras(truth, prediction) for truth, prediction in zip(TRUTHS, FAR, strict=True)]
    assert row["aji_plus"] == pytest.approx(np.nanmean([image.aji_plus for image in images]))
    assert row["dg"] == pytest.approx(np.nanmean([image.dg for image in images]))
    assert (row["splits"], row["merges"]) == tuple(np.mean([(i.splits, i.merges) for i in images], axis=0))
    found = scores_by_length(images)
    assert len(found) > 1
    assert row["pq_by_length"] == {str(octave.shortest_px): pytest.approx(octave.pq) for octave in found}
    assert row["recall_by_length"] == {str(octave.shortest_px): pytest.approx(octave.recall) for octave in found}
    (second,) = scores_by_length([images[1]])
    assert row["by_class"]["2"]["recall_by_length"] == {str(second.shortest_px): pytest.approx(second.recall)}
    assert row["by_class"]["2"]["splits"] == images[1].splits


def test_further_scores_of_seeds_are_averaged_per_image_and_pooled_by_length() -> None:
    (row,) = rows([with_extras(FAR, seed=1), with_extras(EXACT, seed=0)])
    far, exact = ([evaluate_extras(*pair) for pair in zip(TRUTHS, seed, strict=True)] for seed in (FAR, EXACT))
    assert row.aji_plus == pytest.approx(
        np.nanmean([(a.aji_plus + b.aji_plus) / 2 for a, b in zip(far, exact, strict=True)])
    )
    assert row.pq_by_length == {str(octave.shortest_px): octave.pq for octave in scores_by_length([*far, *exact])}


def test_further_scores_are_unknown_where_a_record_is_older(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = record(CLOSE), with_extras(CLOSE, seed=1)
    (alone,) = json.loads(to_json(rows(load_records([save(tmp_path, old)]))))
    assert {alone[name] for name in FURTHER} == {None}
    assert {alone["by_class"]["1"][name] for name in FURTHER} == {None}
    (mixed,) = json.loads(to_json(rows([old, new])))
    assert {mixed[name] for name in FURTHER} == {None}
    assert mixed["aji"] == alone["aji"]
    assert caplog.text == ""
    (holed,) = rows([with_extras([EXACT[0], None, *EXACT[2:]])])
    assert holed.aji_plus == 1
    (failed,) = rows([crashed()])
    assert failed.pq_by_length is failed.splits is None


def test_a_record_whose_extras_are_torn_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torn = with_extras(CLOSE)
    assert torn.images[0].extras is not None
    del torn.images[0].extras["splits"]
    assert load_records([save(tmp_path, torn, with_extras(FAR, seed=1))]) == [with_extras(FAR, seed=1)]
    assert "KeyError: 'splits'" in caplog.text


def test_scores_by_class() -> None:
    (row,) = json.loads(to_json(rows([record(FAR)])))
    assert {c: scores["n"] for c, scores in row["by_class"].items()} == {"1": 3, "2": 1, "3": 1}
    assert row["by_class"]["1"]["n_undefined"] == 1
    for c, scores in row["by_class"].items():
        assert_scores(scores, expected([i for i in range(5) if CLASSES[i] == int(c)], FAR))
    assert row["by_class"]["2"]["pq_std"] is None


def test_seeds_are_averaged_per_image_before_the_spread_is_taken() -> None:
    (row,) = rows([record(FAR, seed=2), record(EXACT, seed=0), record(CLOSE, seed=1)])
    assert row.seeds == [0, 1, 2]
    assert len(row.key) == 3
    assert_scores(row.model_dump(), expected(range(5), EXACT, CLOSE, FAR))


def test_no_prediction_is_counted_and_has_a_relative_error_of_one() -> None:
    (row,) = rows([record([EMPTY] * 5, method="empty")])
    assert_scores(row.model_dump(), expected(range(5), [EMPTY] * 5))
    assert (row.pq, row.acs, row.mre_acs) == (0.0, None, 1.0)
    assert (row.n_no_prediction, row.n_undefined) == (4, 1)


def test_rows_are_in_the_order_of_pq_and_controls_partial_and_failed_ones_have_no_rank() -> None:
    limited = record(EXACT[:2], method="limited", limit=2, n_planned=2)
    holed = record([EXACT[0], None, *EXACT[2:]], method="holed")
    tied = [record(CLOSE, method=name) for name in ("b", "a")]
    failed = crashed(method="broken")
    board = [failed, record(FAR, method="worst"), *tied, control("truth", EXACT), limited, holed]
    ranked = {row.method: row.rank for row in rows([*board, record(EXACT, method="best")])}
    assert list(ranked.items()) == [
        ("best", "1-4"),
        ("a", "1-4"),
        ("b", "1-4"),
        ("worst", "1-4"),
        ("holed", None),
        ("limited", None),
        ("broken", None),
        ("truth", None),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": {"name": "tbm", "identity_sha256": "cd" * 32}},
        {"dataset": {"name": "demo", "identity_sha256": "cd" * 32}},
        {"train_dataset": "tbm"},
        {"split": {"name": "by_sample", "subset": "test"}},
        {"split": {"name": "fixed", "subset": "test", "sha256": "ef" * 32}},
        {"dataset": {"name": "demo", "identity_sha256": "ab" * 32, "class_px": 224}},
    ],
    ids=["data", "content", "training data", "split", "images of the split", "classes"],
)
def test_what_is_not_the_same_data_is_not_ranked_together(other: dict[str, Any]) -> None:
    assert [row.rank for row in rows([record(CLOSE), record(FAR, method="cellpose", **other)])] == ["1", "1"]


@pytest.mark.parametrize(
    "other",
    [
        {"preset": "standard"},
        {"device": "cuda"},
        {"limit": 5},
        {"trainings": {"cp": {"key": "d" * 64, "weights": "imagenet", "seconds": 1.0, "steps": 10}}},
        {"parameters": {"train": {"cp": {"lr": 0.1}}, "infer": {"fusion": "average"}, "decode": {}}},
    ],
    ids=["preset", "device", "limit", "weights", "parameters"],
)
def test_seeds_of_other_settings_are_rows_of_their_own(other: dict[str, Any]) -> None:
    assert [row.seeds for row in rows([record(), record(seed=1, **other)])] in ([[0], [1]], [[1], [0]])


def test_rows_that_differ_in_a_parameter_alone_say_which() -> None:
    average = {"train": {"cp": {"lr": 0.1}}, "infer": {"fusion": "average"}, "decode": {}}
    board = rows([record(CLOSE), record(FAR, parameters=average), record(method="cellpose")])
    variants = {(row.method, row.settings["infer"]["fusion"]): row.variant for row in board}
    assert variants == {
        ("sima", "attention"): "infer.fusion=attention",
        ("sima", "average"): "infer.fusion=average",
        ("cellpose", "attention"): None,
    }
    assert "Sima (infer.fusion=average)" in text_of(to_table(board), 160)


def test_settings_that_are_not_the_presets_are_always_shown() -> None:
    (row,) = rows([record(changes={"infer.fusion": "attention"})])
    assert row.variant == "infer.fusion=attention"
    fused = {"train": {"cp": {"lr": 0.2}}, "infer": {"fusion": "attention"}, "decode": {}}
    found = rows([record(), record(parameters=fused, changes={"train.cp.lr": 0.2}, limit=2)])
    assert {row.variant for row in found} == {"train.cp.lr=0.1", "train.cp.lr=0.2"}


def test_a_failed_seed_takes_the_rank_of_the_row_it_belongs_to() -> None:
    (row,) = rows([record(CLOSE), crashed(seed=1)])
    assert row.weights == "random"
    assert (row.status, row.rank, row.seeds, row.n_failed) == ("failed", None, [0, 1], 5)
    assert row.error is not None
    assert row.error["type"] == "ValueError"
    assert_scores(row.model_dump(), expected(range(5), CLOSE))


def test_a_row_without_any_result_has_no_scores() -> None:
    (row,) = rows([crashed()])
    assert (row.pq, row.pq_pooled, row.weights, row.latency_s) == (None, None, None, None)
    assert (row.n_images, row.n_failed, row.partial) == (5, 5, True)
    assert {scores.n for scores in row.by_class.values()} == {0}


def test_the_worst_status_of_the_seeds_is_shown() -> None:
    killed = [record([], seed=s, status=status) for s, status in enumerate(["interrupted", "oom", "ok"])]
    assert [row.status for row in rows(killed)] == ["oom"]


def test_a_run_that_failed_after_its_last_image_is_not_ranked() -> None:
    (row,) = rows([record(CLOSE, status="interrupted")])
    assert (row.rank, row.partial, row.pq is None) == (None, False, False)


def test_failed_images_are_left_out_of_the_means_and_counted() -> None:
    (row,) = rows([record([*CLOSE[:3], None, CLOSE[4]])])
    assert_scores(row.model_dump(), expected([0, 1, 2, 4], CLOSE))
    assert (row.n_images, row.n_failed, row.partial) == (5, 1, True)


def test_weights_are_those_of_the_first_component_that_is_not_random() -> None:
    cp = {"key": "c" * 64, "weights": "random", "seconds": 1.0, "steps": 10}
    board = rows([record(trainings={"cp": cp, "attention": cp | {"weights": "imagenet"}})])
    assert [row.weights for row in board] == ["imagenet"]
    silent = cp | {"weights": None}
    assert [row.weights for row in rows([record(trainings={"size": silent, "cp": cp})])] == ["random"]
    assert [row.weights for row in rows([record(trainings={"size": silent})])] == [None]
    assert [row.weights for row in rows([record(trainings={})])] == [None]


def timed(seed: int, mean: float, **changes: Any) -> Record:
    latency = {
        "protocol": "run",
        "n": 5,
        "mean_s": mean,
        "median_s": 9.0,
        "iqr_s": 0.1,
        "stages": {"cp": mean / 2},
    }
    return record(seed=seed, latency=latency, **changes)


def test_latency_is_the_mean_of_seeds_on_one_machine() -> None:
    (row,) = rows([timed(0, 1.0), timed(1, 3.0)])
    assert (row.latency_s, row.latency_stages, row.latency_reference_s) == (2.0, {"cp": 1.0}, None)


@pytest.mark.parametrize("other", [{"device_name": "another processor"}, {"threads": 4}])
def test_latencies_of_two_machines_are_not_mixed(other: dict[str, Any]) -> None:
    (row,) = rows([timed(0, 1.0), timed(1, 3.0, **other)])
    assert row.latency_s is None
    assert "different machines" in row.warnings[0]


def test_latencies_of_two_devices_in_one_table_are_marked() -> None:
    mark = "Latencies of different machines or protocols are not comparable"
    same, other = ([timed(0, 1.0), timed(0, 1.0, method="b", device_name=d)] for d in ("a processor", "a GPU"))
    assert [mark in to_markdown(rows(board)) for board in (same, other)] == [False, True]


def test_images_with_other_pixels_than_in_other_records_are_named() -> None:
    one, other = image_records(CLOSE), image_records(CLOSE)
    for images in (one, other):
        for number, image in enumerate(images):
            image["pixels_sha256"] = f"{number}"
    other[3]["pixels_sha256"] = "made elsewhere"
    found = rows([record(images=one), record(images=other, method="cellpose")])
    assert all(row.warnings == ["made with other pixels than in other records of this board: m3"] for row in found)
    assert all(row.warnings == [] for row in rows([record(images=one), record(images=one, method="cellpose")]))


def test_of_two_records_of_a_seed_the_newest_counts_and_the_row_says_so() -> None:
    new = record(CLOSE, provenance={"end": "2025-02-01T00:00:00+00:00"}, warnings=["a note"])
    (row,) = rows([new, record(FAR)])
    assert row.key == [new.key]
    assert_scores(row.model_dump(), expected(range(5), CLOSE))
    assert ("2 records" in row.warnings[0], row.warnings[1]) == (True, "a note")


def test_records_are_found_in_runs_and_in_published_folders(tmp_path: Path) -> None:
    first, second = record(), record(method="cellpose")
    save(tmp_path / "runs", first)
    write_json(tmp_path / "board/demo/cellpose" / f"{second.key[:12]}.json", second.model_dump(mode="json"))
    write_json(tmp_path / "runs/train/cp/settings.json", {"not": "a record"})
    assert load_records([tmp_path / "runs", tmp_path / "board"]) == [first, second]


def test_of_one_key_the_newest_record_is_read(tmp_path: Path) -> None:
    old = record(FAR)
    new = old.model_copy(update={"provenance": {"end": "2026-01-01T00:00:00+00:00"}, "seed": 7})
    roots = [save(tmp_path / "new", new), save(tmp_path / "old", old)]
    assert [found.seed for found in load_records(roots)] == [7]
    assert [found.seed for found in load_records(roots[::-1])] == [7]


@pytest.mark.parametrize("damage", ["torn", "empty", "binary", "list", "no method", "bad scores", "newer"])
def test_a_file_that_is_not_a_record_is_named_and_passed_over(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, record())
    good = record(seed=1).model_dump(mode="json")
    text = json.dumps(good)
    good["images"][0]["scores"]["matches"] = [[5, 0]]
    damaged = {
        "torn": text[: len(text) // 2],
        "empty": "",
        "binary": "\x00\x01",
        "list": "[]",
        "no method": text.replace('"method"', '"m"'),
        "bad scores": json.dumps(good),
        "newer": text.replace('"schema_version": 1', '"schema_version": 99'),
    }
    path = tmp_path / "demo/sima/0123456789ab/record.json"
    path.parent.mkdir()
    path.write_text(damaged[damage])
    with caplog.at_level(logging.WARNING, "crystalbench"):
        assert [found.seed for found in load_records([tmp_path])] == [0]
    (message,) = caplog.messages
    assert str(path) in message
    assert "\n" not in message


def test_json_parses_back(tmp_path: Path) -> None:
    board = rows([record(), control("truth", EXACT), crashed(method="broken")])
    assert json.loads(to_json(board)) == [row.model_dump() for row in board]


def test_csv_parses_back_with_nested_values_in_columns_of_their_own() -> None:
    board = rows([crashed(method="broken"), timed(0, 1.0), control("truth", EXACT)])
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    for line, row in zip(lines, board, strict=True):
        assert (line["method"], line["rank"]) == (row.method, row.rank or "")
        assert line["pq"] == ("" if row.pq is None else repr(row.pq))
        assert json.loads(line["by_class.1.n"]) == row.by_class["1"].n
        assert json.loads(line["seeds"]) == row.seeds
        assert json.loads(line["control"]) is row.control
    assert [line["latency_stages.cp"] for line in lines] == ["0.5", "", ""]
    assert [line["error.type"] for line in lines] == ["", "ValueError", ""]


def test_markdown_has_the_figures_of_each_board() -> None:
    text = to_markdown(rows([record(EXACT), record(FAR, method="cellpose"), control("truth", EXACT)]))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert len({len(line) for line in cells[:5]}) == 1
    table = dict(zip(cells[0], zip(*cells[2:5], strict=True), strict=True))
    assert table["rank"] == ("1-2", "1-2", "-")
    assert table["method"] == ("Sima", "Cellpose", "Truth")
    pq = expected(range(5), FAR)
    assert table["PQ %"][:2] == ("100.0 ± 0.0", f"{100 * pq['pq']:.1f} ± {100 * pq['pq_std']:.1f}")  # type: ignore[operator]
    assert table["params"][0] == "12.2M"
    assert table["n (undef., failed)"] == ("5 (1, 0)",) * 3


HOSTILE = "a|b\n| c | [red]d[/red] [/nothing] \x1b[31m <b>`*e*`"


@pytest.fixture
def hostile() -> list[Record]:
    info = {"name": "sima", "title": HOSTILE, "licence": "MIT"}
    error = {"type": "Odd|[bold]Error", "message": HOSTILE}
    failed = record([], method="broken", info=info, status="failed", error=error)
    return [record(info=info, dataset={"name": HOSTILE, "identity_sha256": "ab" * 32}), failed]


def test_hostile_text_stays_in_its_cell_of_a_csv(hostile: list[Record]) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(rows(hostile)))))
    assert [line["title"] for line in lines] == [HOSTILE, HOSTILE]
    assert all(None not in line for line in lines)


def test_hostile_text_stays_in_its_cell_of_markdown(hostile: list[Record]) -> None:
    lines = [line for line in to_markdown(rows(hostile)).splitlines() if line.startswith("|")]
    unescaped = [line.replace("\\|", "").count("|") for line in lines]
    assert unescaped == [18, 18, 18, 5, 5, 5] * 2
    assert "<b>" not in "".join(lines).replace("\\<b\\>", "")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_hostile_text_is_shown_as_it_is_in_the_table(hostile: list[Record], width: int) -> None:
    text = text_of(to_table(rows(hostile)), width)
    assert "\x1b" not in text
    assert "[red]d[/red]" in text
    assert max(map(len, text.splitlines())) <= width


def board_of_issue_2() -> list[Record]:
    titles = {
        "sima": "Cellpose+SiMA",
        "cellpose": "Cellpose original",
        "cellpose-multiscale": "Cellpose multi-scale",
        "cellpose-noresize": "Cellpose no resizing",
    }
    infos = {
        name: {
            "name": name,
            "title": title,
            "licence": "BSD-3-Clause",
            "parameters": 12_151_238,
            "input_size": 224,
        }
        for name, title in titles.items()
    }
    made = [timed(0, 3.94, method=name, info=info) for name, info in infos.items()]
    return [*made, crashed(method="watershed"), control("truth", EXACT), control("empty", [EMPTY] * 5)]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_says_all_that_it_must_at_every_width(width: int) -> None:
    text = text_of(to_table(rows(board_of_issue_2())), width)
    assert max(map(len, text.splitlines())) <= width
    for word in (
        "Cellpose multi-scale",
        "control",
        "failed: ValueError",
        "quick",
        "random",
        "cpu",
        "5 (1, 0)",
    ):
        assert word in text
    assert "Watershed: failed: the loss is not finite" in text
    assert ("12.2M" in text) == (width == 160)
    assert ("3.94" in text) == (width >= 100)


def test_what_tuning_cost_stands_below_the_table() -> None:
    trainings = {"trainings": 6, "trainings_by_component": {"cp": 2, "attention": 4}}
    cost = {**trainings, "points": 54, "device_s": 1234.4, "device_s_point_by_point": 9876.0}
    board = rows([record(tuning=cost), record(method="cellpose")])
    line = "Sima: tuned: 6 trainings (2 of cp, 4 of attention), 54 points, 1,234 s on the device"
    assert line in text_of(to_table(board), 200)
    assert f"- {line}" in to_markdown(board)
    assert text_of(to_table(board), 200).count("tuned:") == 1


def test_warnings_stand_below_the_table_the_first_three_of_a_row() -> None:
    board = rows([record(warnings=[f"note {i}" for i in range(5)])])
    text = text_of(to_table(board), 160)
    assert [f"Sima: warning: note {i}" in text for i in range(5)] == [True] * 3 + [False] * 2
    assert "Sima: 2 more warnings" in text
    assert to_markdown(board).count("warning: note") == 3


def test_the_table_lists_controls_last_and_pq_by_class() -> None:
    text = text_of(to_table(rows(board_of_issue_2())), 160)
    assert text.index("Cellpose original") < text.index("Watershed") < text.index("Truth")
    pq = expected([0, 3, 4], CLOSE)
    assert f"{100 * pq['pq']:.1f} ± {100 * pq['pq_std']:.1f} (3)" in text  # type: ignore[operator]


def test_the_command_shows_one_data_set(tmp_path: Path) -> None:
    other = record(method="cellpose", dataset={"name": "tbm", "identity_sha256": "cd" * 32})
    runs = save(tmp_path, record(), other)
    found = json.loads(leaderboard([runs], "tbm", "json") or "")
    assert [row["method"] for row in found] == ["cellpose"]
    with pytest.raises(UnknownNameError, match="'tbm'"):
        leaderboard([runs], "tbn", "json")


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown", "latex"])
def test_the_command_writes_what_it_would_print(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    runs, out = save(tmp_path / "runs", record()), tmp_path / "board" / "out.txt"
    assert leaderboard([runs], format=format, out=out) is None
    assert out.read_text(encoding="utf-8") == leaderboard([runs], format=format)


def test_by_default_the_runs_of_this_folder_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("runs"), record(method="cellpose"))
    assert [row["method"] for row in json.loads(leaderboard(format="json") or "")] == ["cellpose"]


@pytest.mark.parametrize("format", ["pdf", "jsn"])
def test_an_unknown_format_is_an_error(format: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format"):
        leaderboard([save(tmp_path, record())], format=format)


def test_no_records_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="crystalbench run --method"):
        leaderboard([tmp_path])
    with pytest.raises(ConfigurationError, match="no such folder"):
        leaderboard([tmp_path / "nowhere"])
