from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SHARED
from PIL import Image
from rich.console import Console

from crystalbench._exceptions import DataError
from crystalbench.evaluation import FolderScores, evaluate, score_folders, score_table, summarize

EMPTY = np.zeros((20, 30), np.uint16)
TRUTH = np.kron(np.arange(1, 7, dtype=np.uint16).reshape(2, 3), np.ones((10, 10), np.uint16))
SHIFTED = np.roll(TRUTH, 2, axis=1)


def write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".png":
        Image.fromarray(labels).save(path)
    else:
        tifffile.imwrite(path, labels)


def folders(root: Path, truth: Mapping[str, np.ndarray], prediction: Mapping[str, np.ndarray]) -> list[Path]:
    for side, files in (("truth", truth), ("prediction", prediction)):
        (root / side).mkdir()
        for name, labels in files.items():
            write(root / side / name, labels)
    return [root / "truth", root / "prediction"]


def rendered(scores: FolderScores, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(score_table(scores))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def scored(tmp_path: Path) -> FolderScores:
    """Five images, the last three of them edge cases, in three formats."""
    truth = {"a.png": TRUTH, "b.tif": TRUTH, "c.npy": TRUTH, "d.png": EMPTY, "[red]e.TIFF": EMPTY}
    prediction = {
        "a.npy": TRUTH.astype(np.uint64) + 2**40,
        "b.png": SHIFTED,
        "c.tiff": EMPTY.astype(np.int32),
        "d.png": TRUTH.astype(np.uint8),
        "[red]e.npy": np.asfortranarray(EMPTY),
    }
    return score_folders(*folders(tmp_path, truth, prediction))


def test_pairs_go_by_stem_whatever_their_format(scored: FolderScores) -> None:
    expected = {
        "[red]e": (EMPTY, EMPTY),
        "a": (TRUTH, TRUTH + 7),
        "b": (TRUTH, SHIFTED),
        "c": (TRUTH, EMPTY),
        "d": (EMPTY, TRUTH),
    }
    assert list(scored.images) == sorted(expected)
    assert scored.images == {name: evaluate(*pair) for name, pair in expected.items()}
    assert scored.summary.to_json() == summarize(list(scored.images.values())).to_json()


def test_json_is_strict_and_complete(scored: FolderScores) -> None:
    found = json.loads(json.dumps(scored.to_json(), allow_nan=False))
    images = {row["image"]: row for row in found["images"]}
    assert images["a"]["pq"] == images["a"]["aji"] == 1
    assert images["[red]e"]["pq"] is None
    assert (images["c"]["pq"], images["c"]["acs_relative_error"], images["c"]["acs_prediction"]) == (
        0,
        1,
        None,
    )
    assert images["b"]["n_truth"] == images["b"]["tp"] + images["b"]["fn"] == 6
    defined = [row["pq"] for row in images.values() if row["pq"] is not None]
    assert found["summary"]["pq"] == pytest.approx(np.mean(defined), rel=1e-12)
    assert found["summary"]["pq_std"] == pytest.approx(np.std(defined, ddof=1), rel=1e-12)
    assert (found["summary"]["n_images"], found["summary"]["n_undefined"]) == (5, 2)


def test_json_has_the_further_scores_of_each_image_and_of_all(scored: FolderScores) -> None:
    found = json.loads(json.dumps(scored.to_json(), allow_nan=False))
    images = {row["image"]: row for row in found["images"]}
    names = {"aji_plus", "splits", "merges", "dg", "pq_by_length", "recall_by_length"}
    assert all(row.keys() >= names for row in [*images.values(), found["summary"]])
    # Six crystals of 10 x 10 px, all cut.
    assert (images["a"]["aji_plus"], images["a"]["dg"], images["a"]["pq_by_length"]) == (1, 0, {"8": 1})
    assert (images["c"]["aji_plus"], images["c"]["dg"], images["c"]["recall_by_length"]) == (0, None, {"8": 0})
    assert (images["[red]e"]["aji_plus"], images["[red]e"]["pq_by_length"]) == (None, {})
    assert found["summary"]["recall_by_length"] == {"8": pytest.approx((6 + images["b"]["tp"]) / 18)}
    assert found["summary"]["splits"] == np.mean([row["splits"] for row in images.values()])


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_shows_every_image_the_means_and_what_is_undefined(scored: FolderScores, width: int) -> None:
    text = rendered(scored, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert {"[red]e", "a", "b", "c", "d", "mean", "std"} <= set(rows)
    assert f"{100 * scored.summary.pq:.1f}" in rows["mean"]
    assert f"{100 * scored.summary.pq_std:.1f}" in rows["std"]
    words = " ".join(text.split())
    assert "ACS errors of 2 (no crystal in the truth)" in words
    assert "PQ, SQ, RQ and AJI of 1 (" in words
    assert "No prediction where the truth has crystals: 1" in words


def test_the_table_counts_splits_and_merges(tmp_path: Path) -> None:
    joined = np.where(TRUTH < 3, 1, TRUTH)
    truth = {"a.png": joined, "b.png": joined, "c.png": TRUTH}
    scores = score_folders(*folders(tmp_path, truth, {"a.png": TRUTH, "b.png": TRUTH, "c.png": joined}))
    words = " ".join(rendered(scores, 100).split())
    assert "Crystals of the truth that are split: 2; of the prediction that are merges: 1." in words


def test_progress_is_reported(tmp_path: Path) -> None:
    files = {"a.png": TRUTH, "b.png": TRUTH}
    seen: list[tuple[int, int]] = []
    score_folders(*folders(tmp_path, files, files), report=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    truth, prediction = folders(tmp_path, {"a.png": TRUTH}, {"a.png": TRUTH})
    (truth / "notes.txt").write_text("drawn by hand")
    (prediction / ".a.tif").write_bytes(b"")
    (prediction / "overlays").mkdir()
    assert list(score_folders(truth, prediction).images) == ["a"]


def test_every_bad_file_is_named_at_once(tmp_path: Path) -> None:
    good = dict.fromkeys(("fine.png", "missing.png", "shape.png", "torn.png", "both.png", "twice.png"), TRUTH)
    truth, prediction = folders(tmp_path, good, good)
    (prediction / "missing.png").unlink()
    write(prediction / "surplus.png", TRUTH)
    write(prediction / "shape.png", TRUTH[:10])
    whole = (prediction / "torn.png").read_bytes()
    (prediction / "torn.png").write_bytes(whole[: len(whole) // 2])
    for folder in (truth, prediction):
        (folder / "both.png").write_text("not a picture")
    write(prediction / "twice.npy", TRUTH)
    for stem, labels in BAD_LABELS.items():
        write(truth / f"{stem}.png", TRUTH)
        write(prediction / f"{stem}.tif", labels)

    with pytest.raises(DataError) as caught:
        score_folders(truth, prediction)

    first, *problems = str(caught.value).splitlines()
    expected = {
        truth / "missing.png",
        truth / "both.png",
        *(prediction / f"{stem}.png" for stem in ("surplus", "shape", "torn", "both")),
        prediction / "twice.npy",
        *(prediction / f"{stem}.tif" for stem in BAD_LABELS),
    }
    assert {Path(problem.strip().split(" ")[0].rstrip(":")) for problem in problems} == expected
    assert f"mend these {len(expected)} problems" in first
    assert "fine.png" not in str(caught.value)
    assert "20 x 30 pixels and the prediction 10 x 30" in str(caught.value)


BAD_LABELS = {
    "floats": TRUTH.astype(np.float32),
    "negative": TRUTH.astype(np.int32) - 2,
    "colours": np.repeat(TRUTH[..., None].astype(np.uint8), 3, axis=2),
}


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    truth, prediction = folders(tmp_path, {"a.png": TRUTH}, {})
    with pytest.raises(DataError, match=r"prediction holds no label images"):
        score_folders(truth, prediction)
    with pytest.raises(DataError, match=r"nowhere is not a folder"):
        score_folders(tmp_path / "nowhere", prediction)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no data sets in {SHARED}")
@pytest.mark.parametrize("name", ["tbm", "ffc_iron", "imagegrains"])
def test_the_truth_of_real_sets_scores_one(name: str) -> None:
    labels = SHARED / "data" / name / "labels"
    scores = score_folders(labels, labels)
    assert scores.summary.pq == scores.summary.aji == scores.summary.pq_pooled == 1
    assert scores.summary.mae_acs == scores.summary.mre_acs == 0
    assert not math.isnan(scores.summary.acs)
