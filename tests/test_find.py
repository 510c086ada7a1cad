"""From a name to a data set that a run takes: which folder, and what is refused."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import make_squares

from crystalbench._exceptions import DataError
from crystalbench.cli import main
from crystalbench.data import check_files, find_folder, make_dataset, write_image, write_labels, write_split

SPLIT = {"square1": "train", "square2": "val", "square3": "test"}


def run(data: Path | str, out: Path, *arguments: str) -> int:
    return main(["run", "--method", "truth", "--data", str(data), "--out", str(out / "runs"), *arguments])


def write_test_only(folder: Path) -> None:
    images = {path.stem: {"subset": "test"} for path in (folder / "images").iterdir()}
    (folder / "splits").mkdir()
    content = {"name": "fixed", "kind": "split", "version": 1, "images": images}
    (folder / "splits" / "fixed.json").write_text(json.dumps(content))


class TestMadeNames:
    @pytest.fixture
    def demo(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The first three images of demo, in a working directory of its own."""
        monkeypatch.setenv("CRYSTALBENCH_DATA", str(tmp_path / "cache"))
        monkeypatch.setattr("crystalbench.data._find.make_dataset", lambda name, report: tmp_path / "cache" / name)
        monkeypatch.chdir(tmp_path)
        return make_dataset("demo", tmp_path / "cache" / "demo", images=3)

    def test_a_folder_of_the_same_name_is_not_passed_over_in_silence(
        self, demo: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Path("demo").mkdir()
        assert find_folder("demo") == demo
        assert not caplog.records
        make_squares(Path("demo"), 3)
        assert find_folder("demo") == demo
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "your folder ./demo" in record.message
        assert "--data ./demo" in record.message
        assert find_folder("./demo") == Path("demo")
        assert len(caplog.records) == 1

    def test_a_made_set_is_not_read_through(self, demo: Path, tmp_path: Path) -> None:
        (demo / "images" / "000.png").write_bytes(b"")
        assert check_files(demo, pytest.fail) == []
        assert run("demo", tmp_path, "--dry-run") == 0


class TestCheckFiles:
    def test_everything_is_named_at_once(
        self, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (squares / "labels" / "square1.png").unlink()
        write_labels(squares / "labels", "ghost", np.ones((9, 9), np.int64))
        (squares / "images" / "square2.png").write_bytes(b"")
        write_labels(squares / "labels", "square3", np.ones((9, 9), np.int64))
        (squares / "dataset.yaml").write_text("name: a/b\n")
        (squares / "splits").mkdir()
        (squares / "splits" / "fixed.json").write_text("{")
        assert run(squares, tmp_path) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"crystalbench: {squares} cannot be used")
        for said in (
            "images/square1.png has no label map",
            "labels/ghost.png has no image",
            "images/square2.png cannot be read",
            "labels/square3.png is 9 x 9",
            "dataset.yaml has the name 'a/b'",
            "splits/fixed.json is no JSON",
        ):
            assert error.count(said) == 1, said

    def test_a_manifest_and_settings_of_a_wrong_form(self, squares: Path) -> None:
        (squares / "manifest.csv").write_text("image,group\nsquare1.png,a,b\n")
        (squares / "dataset.yaml").write_text("line: 3\n")
        with pytest.raises(DataError, match=r"(?s)dataset\.yaml.*'line_px'.*line 2 has 3 cells"):
            check_files(squares)

    @pytest.mark.parametrize("content", ["{", json.dumps({"images": {"ghost": {"subset": "test"}}})])
    def test_splits_that_are_not_used_are_not_in_the_way(self, squares: Path, tmp_path: Path, content: str) -> None:
        (squares / "splits").mkdir()
        (squares / "splits" / "other.json").write_text(content)
        assert check_files(squares) == []
        assert run(squares, tmp_path, "--dry-run") == 0
        (squares / "splits" / "other.json").rename(squares / "splits" / "fixed.json")
        with pytest.raises(DataError, match=r"fixed\.json"):
            check_files(squares)

    def test_what_has_not_changed_is_not_read_again(
        self, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        write_split(squares, "fixed", {**SPLIT, "square4": ["train", "test"]})
        read: list[tuple[int, int]] = []
        found = [check_files(squares, lambda *counts: read.append(counts)) for _ in range(2)]
        assert found[0] == found[1] != []
        assert read == [(count, 8) for count in range(1, 9)]
        file = squares / "images" / "square2.png"
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        file.write_bytes(bytes(file.stat().st_size))
        os.utime(file, ns=times)
        with pytest.raises(DataError, match=r"square2\.png cannot be read"):
            check_files(squares)

    def test_a_split_with_an_empty_subset_hinders_only_what_uses_it(
        self, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_test_only(squares)
        assert run(squares, tmp_path) == 2
        error = capsys.readouterr().err
        assert "fixed.json leaves train and val empty" in error
        assert "--train-data" in error
        other = tmp_path / "other"
        for seed, name in enumerate(SPLIT):
            image = np.random.default_rng(seed + 9).integers(0, 256, (48, 64, 3)).astype(np.uint8)
            write_image(other / "images" / f"{name}.png", image)
            write_labels(other / "labels", name, np.ones((48, 64), np.int64))
        assert run(squares, tmp_path, "--train-data", str(other), "--dry-run") == 0

    def test_an_empty_subset_is_named_with_the_rest(self, squares: Path) -> None:
        write_test_only(squares)
        (squares / "images" / "square2.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"(?s)square2\.png.*leaves train and val empty"):
            check_files(squares)

    def test_leaks_are_named_and_not_refused(self, squares: Path) -> None:
        write_split(squares, "fixed", {**SPLIT, "square4": ["train", "test"]})
        assert [problem.leak for problem in check_files(squares) if problem.kind == "error"] == [True]

    def test_grey_images_are_one_line(self, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for seed, path in enumerate(sorted((squares / "images").iterdir())):
            write_image(path, np.random.default_rng(seed).integers(0, 256, (48, 64)).astype(np.uint8))
        assert run(squares, tmp_path, "--dry-run") == 0
        assert capsys.readouterr().err.splitlines() == [
            f"warning: {squares / 'images' / 'square1.png'} and 7 more are converted: grey repeated to RGB"
        ]
