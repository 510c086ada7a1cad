from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from crystalbench import ConfigurationError, DataError, LabelError, Segmenter
from crystalbench.cli import main
from crystalbench.data import open_dataset, read_labels, write_labels
from crystalbench.registry import find_method


@pytest.fixture
def made(squares: Path, tmp_path: Path) -> Path:
    """Label maps of another tool: here the truth, under other numbers and in other formats."""
    folder = tmp_path / "my-tool"
    folder.mkdir()
    for number, sample in enumerate(open_dataset(squares).samples):
        labels = sample.label * 7
        if number % 2:
            np.save(folder / f"{sample.name}.npy", labels)
        else:
            tifffile.imwrite(folder / f"{sample.name}.TIF", labels.astype(np.uint32))
    return folder


def run(squares: Path, out: Path, *settings: str, method: str = "precomputed") -> int:
    named = [part for setting in settings for part in ("--set", setting)]
    return main(["run", "--method", method, "--data", str(squares), "--out", str(out), "--preset", "quick", *named])


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in out.glob("*/precomputed/*/record.json")]


def rows(out: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["leaderboard", "--runs", str(out), "--format", "json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def a_tested_image(squares: Path) -> str:
    return open_dataset(squares).split().test[0].name


def build(**infer: Any) -> Segmenter:
    return find_method("precomputed").build({"train": {}, "infer": infer, "decode": {}})


def test_label_maps_of_a_tool_get_a_row(
    squares: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert run(squares, out, f"infer.folder={made}") == 0
    (row,) = rows(out, capsys)
    assert (row["pq"], row["status"], row["rank"]) == (1, "ok", "1")
    assert row["variant"] == f"infer.folder={made}"


@pytest.mark.parametrize("seconds", [None, 2.5])
def test_latency_is_what_was_given_and_never_that_of_reading(
    seconds: float | None, squares: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    told = [f"infer.latency_s={seconds}"] if seconds else []
    assert run(squares, out, f"infer.folder={made}", *told) == 0
    (row,), (record,) = rows(out, capsys), records(out)
    assert row["latency_s"] == seconds
    assert {image["seconds"] for image in record["images"]} == {seconds}
    assert record["latency"] is None or record["latency"]["protocol"] == "told by the method"


def test_two_tools_are_two_rows(squares: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, other = tmp_path / "runs", tmp_path / "other-tool"
    shutil.copytree(made, other)
    for folder in (made, other):
        assert run(squares, out, f"infer.folder={folder}") == 0
    assert {row["variant"] for row in rows(out, capsys)} == {f"infer.folder={made}", f"infer.folder={other}"}


def test_a_changed_label_map_is_scored_again_and_no_other(squares: Path, made: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "runs", a_tested_image(squares)
    assert run(squares, out, f"infer.folder={made}") == 0
    (before,) = records(out)
    for file in made.glob(f"{name}.*"):
        file.unlink()
    write_labels(made, name, np.zeros((48, 64), np.int32))
    assert run(squares, out, f"infer.folder={made}") == 0
    (after,) = records(out)
    changed = [old["image"] for old, new in zip(before["images"], after["images"], strict=True) if old != new]
    assert changed == [name]
    (image,) = [image for image in after["images"] if image["image"] == name]
    assert image["details"]["file"] == f"{name}.png"
    assert image["scores"]["tp"] == 0


def test_an_image_without_a_label_map_fails_alone(
    squares: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, name = tmp_path / "runs", a_tested_image(squares)
    for file in made.glob(f"{name}.*"):
        file.unlink()
    assert run(squares, out, f"infer.folder={made}") == 1
    (row,) = rows(out, capsys)
    assert (row["status"], row["n_failed"]) == ("failed", 1)
    assert row["error"]["message"].startswith(f"{name}: {made} holds no label map for {name}: save it there")


def test_labels_outside_the_grain_are_cut_off_as_in_the_truth(squares: Path, made: Path) -> None:
    name = a_tested_image(squares)
    grain = np.zeros((48, 64), np.uint8)
    grain[:, :32] = 1
    write_labels(squares / "grains", name, grain)
    (sample,) = [sample for sample in open_dataset(squares).samples if sample.name == name]
    found = build(folder=str(made)).predict_sample(sample)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, 7 * sample.label)


@pytest.mark.parametrize(
    ("write", "error", "expected"),
    [
        (lambda file: np.save(file.with_suffix(".npy"), np.ones((48, 64))), LabelError, r"\.npy holds float64"),
        (lambda file: np.save(file.with_suffix(".npy"), np.ones((4, 6), int)), LabelError, r"\.npy is 4 x 6 but its"),
        (lambda file: Image.new("RGB", (64, 48)).save(file.with_suffix(".png")), LabelError, "save one channel"),
        (lambda file: file.with_suffix(".png").write_bytes(b"no image"), DataError, r"\.png cannot be read"),
        (lambda file: [write_labels(file.parent, file.name, np.ones((48, 64), int)),
                       np.save(file, np.ones((48, 64), int))], DataError, r"\.png beside it have one stem"),
    ],
)  # fmt: skip
def test_a_bad_label_map_is_named(
    write: Any, error: type[Exception], expected: str, squares: Path, tmp_path: Path
) -> None:
    sample, folder = open_dataset(squares).samples[0], tmp_path / "bad"
    folder.mkdir()
    write(folder / sample.name)
    with pytest.raises(error, match=rf"{folder}.*{expected}"):
        build(folder=str(folder)).predict_sample(sample)


def test_a_folder_must_be_given_and_exist(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(squares, tmp_path / "runs") == 2
    assert "precomputed needs infer.folder: add --set precomputed.infer.folder=VALUE" in capsys.readouterr().err
    assert run(squares, tmp_path / "runs", "infer.folder=not-there") == 2
    assert "infer: folder: Path does not point to a directory (given: 'not-there')" in capsys.readouterr().err


def test_all_leaves_it_out_unless_its_folder_is_set(
    squares: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = ["run", "--method", "all", "--data", str(squares), "--out", str(tmp_path), "--dry-run"]
    assert main(dry) == 0
    assert "precomputed" not in capsys.readouterr().out
    assert main([*dry, "--set", f"precomputed.infer.folder={made}"]) == 0
    assert "test  precomputed" in capsys.readouterr().out


def test_pixels_alone_have_no_label_map(made: Path) -> None:
    with pytest.raises(ConfigurationError, match="belong to the images of a data set"):
        build(folder=str(made)).predict(np.zeros((4, 4, 3), np.uint8))


def test_the_run_keeps_the_label_maps_that_it_scored(squares: Path, made: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "runs", a_tested_image(squares)
    assert run(squares, out, f"infer.folder={made}") == 0
    (file,) = out.glob(f"*/precomputed/*/labels/{name}.png")
    (given,) = made.glob(f"{name}.*")
    np.testing.assert_array_equal(read_labels(file), read_labels(given))
