"""``crystalbench compare`` and ``reproduce``, on runs of small methods."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_squares

from crystalbench.cli import main
from crystalbench.data import open_dataset, read_image, write_image, write_split
from crystalbench.evaluation import ImageScores
from crystalbench.experiment import open_record
from crystalbench.leaderboard import compare

PUBLISHED = Path(__file__).parents[1] / "leaderboard" / "records" / "demo"

ADAPTER = """
import numpy as np
from skimage.measure import label
from crystalbench import MethodInfo, Parameters, Segmenter

class Decode(Parameters):
    level: int = 120

class Bright(Segmenter):
    info = MethodInfo(name="bright", title="Bright", licence="MIT")
    Decode = Decode

    def predict(self, image):
        return label(image[..., 0] > self.decode_parameters.level, connectivity=1).astype(np.int32)
"""


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A data set of which the split tests at least two images."""
    return make_squares(tmp_path / "squares", 12)


@pytest.fixture
def run(squares: Path, tmp_path: Path) -> Callable[..., Path]:
    def folder(method: str, *flags: str) -> Path:
        known = set(tmp_path.glob("runs/squares/*/*"))
        command = ["run", "--method", method, "--data", str(squares), "--threads", "1", "--out", str(tmp_path / "runs")]
        assert main([*command, *flags]) == 0
        (new,) = set(tmp_path.glob("runs/squares/*/*")) - known
        return new

    return folder


def edit(folder: Path, **changes: Any) -> Path:
    """Write a record with changes beside its folder and return the file."""
    record = json.loads((folder / "record.json").read_text())
    file = folder / "edited.json"
    file.write_text(json.dumps(record | changes))
    return file


class TestCompare:
    def test_settings_that_differ_and_scores_in_pairs(
        self, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = run("watershed"), run("watershed", "--set", "decode.min_size=101")
        capsys.readouterr()
        assert main(["compare", str(first), str(second / "record.json"), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["settings"] == {"decode.min_size": [30, 101]}
        pairs = [
            [ImageScores.from_row(image["scores"]) for image in json.loads((run / "record.json").read_text())["images"]]
            for run in (first, second)
        ]
        for name, field, sign in (("pq", "pq", 1), ("aji", "aji", 1), ("mae_acs", "acs_error", -1)):
            values = [(getattr(a, field), getattr(b, field)) for a, b in zip(*pairs, strict=True)]
            found = printed["scores"][name]
            assert found["first"] == pytest.approx(statistics.fmean(a for a, _ in values))
            assert found["second"] == pytest.approx(statistics.fmean(b for _, b in values))
            assert found["mean_difference"] == pytest.approx(statistics.fmean(b - a for a, b in values))
            assert found["median_difference"] == pytest.approx(statistics.median(b - a for a, b in values))
            assert found["better"] == sum(sign * (b - a) > 1e-9 for a, b in values)
            assert found["worse"] == sum(sign * (b - a) < -1e-9 for a, b in values)
            assert found["better"] + found["worse"] + found["equal"] == found["n"] == len(values) >= 2

    def test_published_records_as_a_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        (truth,), (empty,) = (list((PUBLISHED / name).glob("?" * 12 + ".json")) for name in ("truth", "empty"))
        assert main(["compare", str(truth), str(empty)]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["method", "truth", "empty"] in lines
        assert ["PQ", "%", "100.00", "0.00", "-100.00", "-100.00", "0", "20", "0"] in lines
        assert any(line[-3:] == ["100.00", "0.00", "-100.00"] for line in lines)
        assert compare(open_record(truth), open_record(truth)).largest == []
        assert main(["compare", str(truth), str(truth)]) == 0
        assert "No setting differs." in capsys.readouterr().out

    def test_images_of_one_run_alone_and_undefined_scores_are_left_out_and_told(
        self, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("empty")
        images = json.loads((folder / "record.json").read_text())["images"]
        failed = edit(folder, images=[images[0] | {"status": "failed", "scores": None}, *images[1:]])
        assert main(["compare", str(folder), str(failed)]) == 0
        printed = capsys.readouterr().out
        assert f"scores of {len(images) - 1} images" in printed
        assert f"left out, as only the first run has scores of them: {images[0]['image']}" in printed
        nothing = images[0]["scores"] | {"n_truth": 0, "fn": 0, "areas_truth": [], "aji_union": 0}
        blank = edit(folder, images=[images[0] | {"scores": nothing}], evaluator_version=0)
        found = compare(open_record(folder), open_record(blank))
        assert (found.scores["pq"].n, found.scores["pq"].first, found.largest) == (0, None, [])
        assert any("evaluators 1 and 0" in warning for warning in found.warnings)
        assert main(["compare", str(folder), str(blank)]) == 0
        assert "PQ % is undefined in 1 images" in capsys.readouterr().out

    def test_runs_that_cannot_be_compared(
        self, run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("truth")
        record = json.loads((folder / "record.json").read_text())
        (tmp_path / "torn.json").write_text('{"key": ')
        for other, message in (
            (next((PUBLISHED / "truth").glob("*.json")), "squares, the second of demo"),
            (edit(folder, images=[]), "no scored image in common"),
            (tmp_path / "absent", "absent does not exist"),
            (tmp_path / "runs", f"such as {folder}"),
            (tmp_path / "torn.json", "torn.json is not a whole record"),
        ):
            capsys.readouterr()
            assert main(["compare", str(folder), str(other)]) == 2
            assert message in capsys.readouterr().err
        other_images = edit(folder, dataset=record["dataset"] | {"identity_sha256": "f" * 64})
        assert main(["compare", str(folder), str(other_images)]) == 2
        assert "saw different images as squares" in capsys.readouterr().err


class TestReproduce:
    @pytest.mark.parametrize(
        ("method", "flags"),
        [("truth", []), ("voronoi", ["--seed", "3"]), ("watershed", ["--set", "decode.min_size=99", "--limit", "1"])],
    )
    def test_the_same_scores_are_status_0(
        self,
        run: Callable[..., Path],
        squares: Path,
        tmp_path: Path,
        method: str,
        flags: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = run(method, *flags)
        capsys.readouterr()
        out = tmp_path / "again"
        assert main(["reproduce", str(folder), "--data", str(squares), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert "images are the same, integer for integer" in printed
        assert "->" not in printed
        before, again = open_record(folder), open_record(out / "squares" / method / folder.name)
        assert again.model_dump(
            include={"key", "parameters", "seed", "threads", "limit", "split"}
        ) == before.model_dump(include={"key", "parameters", "seed", "threads", "limit", "split"})
        assert [image.scores for image in again.images] == [image.scores for image in before.images]

    def test_what_differs_is_told_with_status_1(
        self, run: Callable[..., Path], squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("watershed")
        record = json.loads((folder / "record.json").read_text())
        first, *others = record["images"]
        scores = first["scores"] | {"tp": 0, "aji_intersection": 0}
        images = [first | {"scores": scores, "pixels_sha256": "0" * 64}, *others]
        provenance = record["provenance"] | {"cores": 999, "source_sha256": "0" * 64}
        summary = record["summary"] | {"pq": 0.25}
        file = edit(folder, images=images, provenance=provenance, summary=summary)
        capsys.readouterr()
        assert main(["reproduce", str(file), "--data", str(squares), "--out", str(tmp_path / "again")]) == 1
        told = capsys.readouterr()
        assert f"{first['image']}: differs in tp, aji_intersection" in told.out
        assert "pq: 0.25 -> " in told.out
        assert "cores: 999 -> " in told.out
        assert f"{first['image']}: made with other pixels than in the record" in told.out
        assert f"the scores of 1 of {len(images)} images differ" in told.out
        assert "warning: the source of watershed has changed" in told.err

    def test_a_record_of_a_gpu_runs_where_there_is_none(
        self, run: Callable[..., Path], squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if shutil.which("nvidia-smi"):
            pytest.skip("this machine has a GPU")
        file = edit(run("truth"), device="cuda", device_name="Some GPU")
        assert main(["reproduce", str(file), "--data", str(squares), "--out", str(tmp_path / "again")]) == 0
        told = capsys.readouterr()
        assert "a Some GPU, which is not here: this runs on the CPU" in told.err
        assert "device: cuda -> cpu" in told.out

    def test_a_method_of_ones_own_is_loaded_when_it_is_named_again(
        self, run: Callable[..., Path], squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        adapter = tmp_path / "bright.py"
        adapter.write_text(ADAPTER)
        folder = run("bright", "--adapter", str(adapter))
        again = ["reproduce", str(folder), "--data", str(squares), "--out", str(tmp_path / "again")]
        assert main(again) == 2
        assert "the method of the record is not here: unknown method 'bright'" in capsys.readouterr().err
        assert main([*again, "--adapter", str(adapter)]) == 0
        adapter.write_text(ADAPTER.replace("level: int", "other: int").replace("parameters.level", "parameters.other"))
        command = [
            sys.executable,
            "-m",
            "crystalbench",
            *again[:-1],
            str(tmp_path / "third"),
            "--adapter",
            str(adapter),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert "unknown key" in done.stderr

    def test_the_data_set_of_the_recorded_command_and_a_folder_of_its_own(self, squares: Path, tmp_path: Path) -> None:
        (tmp_path / "place").mkdir()
        shutil.move(squares, tmp_path / "place" / "squares")

        def call(*arguments: str, status: int = 0) -> str:
            command = [sys.executable, "-m", "crystalbench", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
            assert done.returncode == status, done.stderr
            return done.stdout + done.stderr

        call("run", "--method", "truth", "--data", "place/squares", "--threads", "1")
        (folder,) = tmp_path.glob("runs/squares/truth/*")
        assert "reproduced/" in call("reproduce", str(folder))
        claimed = tmp_path / "reproduced" / folder.name
        assert "already holds results" in call("reproduce", str(folder), status=2)
        assert "already holds results" in call("reproduce", str(folder), "--out", "runs", status=2)
        # As an interruption would leave it.
        (claimed / "squares" / "truth" / folder.name / "record.json").unlink()
        call("reproduce", str(folder))

    def test_data_that_is_not_that_of_the_record(
        self, run: Callable[..., Path], squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = run("truth")
        out = ["--out", str(tmp_path / "again")]
        names = sorted(sample.name for sample in open_dataset(squares).samples)
        assert main(["reproduce", str(edit(folder, provenance={})), *out]) == 2
        assert "the data set of the record is not here: unknown data set or folder 'squares'" in capsys.readouterr().err
        write_split(squares, "fixed", dict.fromkeys(names[2:], "test") | {names[0]: "train", names[1]: "val"})
        assert main(["reproduce", str(folder), "--data", str(squares), *out]) == 2
        assert "train, validate or test than in the record" in capsys.readouterr().err
        image = squares / "images" / f"{names[0]}.png"
        write_image(image, 255 - read_image(image))
        assert main(["reproduce", str(folder), "--data", str(squares), *out]) == 2
        assert "holds other images than squares of the record" in capsys.readouterr().err
        assert not (tmp_path / "again").exists()

    def test_a_record_of_two_data_sets(self, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = tmp_path / "other"
        shutil.copytree(squares, other)
        for image in other.glob("images/*"):
            write_image(image, 255 - read_image(image))
        data = ["--data", str(other), "--train-data", str(squares)]
        assert main(["run", "--method", "voronoi", *data, "--threads", "1", "--out", str(tmp_path / "runs")]) == 0
        (folder,) = tmp_path.glob("runs/other/voronoi/*")
        out = ["--out", str(tmp_path / "again")]
        assert main(["reproduce", str(folder), "--data", str(other), *out]) == 2
        assert "the training data of the record is not here" in capsys.readouterr().err
        assert main(["reproduce", str(folder), *data, *out]) == 0
