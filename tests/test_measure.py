"""Measuring micrographs that nobody has labelled, by real runs of small models."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
from conftest import SHARED, make_squares
from numpy.typing import NDArray
from pyarrow import parquet
from pycocotools.coco import COCO
from skimage.measure import grid_points_in_poly, label, regionprops_table

from crystalbench._exceptions import DataError
from crystalbench.cli import main
from crystalbench.data import import_dataset, open_dataset, read_labels, write_image, write_labels
from crystalbench.data._pickles import array_of, read_pickled_dict
from crystalbench.evaluation import evaluate, feret_diameters, grain_size
from crystalbench.experiment import ImageRecord
from crystalbench.measure import Micrograph, find_micrographs, tolerance
from crystalbench.measure._exports import imagej_rois, outline_loops
from crystalbench.measure._scale import Scale, find_scales

HOSTILE = ("\x1b[31mred", "<img src=x onerror=alert(1)>", "-x", "mit Leerzeichen und ü", "'\"&amp;{{ 7*7 }}", "=1+1")
SLANTED = Path("<script>alert(1)<") / "script>.png"

NOTED = """
import os, time
from pathlib import Path
import numpy as np
from crystalbench import MethodInfo, Segmenter

class Noted(Segmenter):
    info = MethodInfo(name="noted", title="Noted", licence="MIT")

    def load(self, checkpoints, device):
        if "BROKEN" in os.environ:
            raise RuntimeError("no luck with the weights")

    def predict(self, image):
        from skimage.measure import label
        if image[0, 0, 0] == 255:
            os._exit(7)
        time.sleep(0.05)
        with Path(os.environ.get("AUDIT", os.devnull)).open("a") as file:
            file.write(f"{image[0, 0, 0]}\\n")
        return label(image[..., 0] > 128, connectivity=1).astype(np.int32)
"""


def make_image(path: Path, seed: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Write an image of bright rectangles, some at the border, of which the first pixel tells the seed."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 40, (*shape, 3))
    for _ in range(6):
        y, x = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
        height, width = rng.integers(6, 16, 2)
        image[y : y + height, x : x + width] += 190
    image[0, :2] = 0
    image[0, 0] = seed
    image = np.minimum(image, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        write_image(path, image)
    return image


@dataclass
class Models:
    """Runs of several methods, on a data set of squares; one of them is that of a file of our own."""

    out: Path
    adapter: Path

    def run(self, method: str) -> Path:
        (record,) = self.out.glob(f"runs/squares/{method}/*/record.json")
        return record.parent

    def measure(self, method: str, *arguments: Path | str) -> int:
        return main(["measure", "--model", str(self.run(method)), *map(str, arguments)])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    out = tmp_path_factory.mktemp("models")
    data, adapter = make_squares(out / "squares", 12), out / "noted.py"
    adapter.write_text(NOTED)
    methods = [part for name in ("watershed", "voronoi", "truth", "noted") for part in ("--method", name)]
    run = ["run", *methods, "--data", str(data), "--out", str(out / "runs"), "--threads", "1"]
    assert main([*run, "--adapter", str(adapter)]) == 0
    return Models(out, adapter)


@dataclass
class Measured:
    """What one call has left."""

    images: Path
    out: Path
    status: int
    printed: str
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    crystals: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = {row["image"]: row for row in read_csv(self.out / "images.csv")}
        self.crystals = read_csv(self.out / "crystals.csv")

    @property
    def names(self) -> list[str]:
        return [name for name, row in self.rows.items() if row["status"] == "ok"]

    def labels(self, name: str) -> NDArray[Any]:
        return read_labels(self.out / "labels" / f"{name}.png")

    def column(self, image: str, name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in self.crystals if row["image"] == image])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def measured(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """All that can be odd of a folder, in one call."""
    images = tmp_path_factory.mktemp("micrographs")
    for seed, name in enumerate(HOSTILE):
        make_image(images / "hostile" / f"{name}.png", seed)
    make_image(images / "hostile" / SLANTED, 20)
    make_image(images / "same" / "-x.png", 21)
    broken = images / "same" / "broken\x1b[31m.png"
    make_image(broken, 22)
    broken.write_bytes(broken.read_bytes()[:600])
    scaled = images / "set" / "images"
    pixels = make_image(scaled / "masked.png", 23)
    (images / "set" / "dataset.yaml").write_text("um_per_px: 0.5\n")
    write_labels(images / "set" / "grains", "masked", np.tile(np.arange(64) < 32, (48, 1)).astype(np.int32))
    make_image(scaled / "plain.png", 24)
    tifffile.imwrite(images / "same" / "tags.tif", pixels, resolution=(4, 4), metadata={"unit": "um"}, imagej=True)
    write_image(images / "set" / "black.png", np.zeros_like(pixels))
    named = [images / "hostile", images / "hostile" / SLANTED, images / "same", images / "set"]
    named += [images / "set" / "black.png"]
    # A process of its own: what it says and how it ends is what a user meets.
    command = [sys.executable, "-m", "crystalbench", "measure", "--model", models.run("watershed"), *named]
    out = images / "out"
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True)
    return Measured(images, out, done.returncode, done.stdout + done.stderr)


class TestTables:
    def test_what_failed_is_named_and_the_rest_goes_on(self, measured: Measured) -> None:
        assert measured.status == 1
        assert f"{measured.images / 'same' / 'broken'} [31m.png cannot be read" in measured.printed
        assert "\x1b" not in measured.printed
        assert "Traceback" not in measured.printed
        broken = measured.rows["broken\x1b[31m"]
        assert (broken["status"], "cannot be read" in broken["error"]) == ("failed", True)
        assert len(measured.names) == len(measured.rows) - 1 == 12
        assert not (measured.out / "labels" / "broken\x1b[31m.png").exists()

    def test_images_of_one_stem_stay_apart(self, measured: Measured) -> None:
        assert Path(measured.rows["-x-2"]["file"]) == measured.images / "same" / "-x.png"
        assert not np.array_equal(measured.labels("-x"), measured.labels("-x-2"))

    def test_crystals_agree_with_scikit_image(self, measured: Measured) -> None:
        n_crystals = 0
        for name in measured.names:
            labels = measured.labels(name)
            agrees_with_scikit_image(measured, name, labels)
            n_crystals += np.unique(labels[labels > 0]).size
        assert n_crystals == len(measured.crystals) > 20

    def test_images_agree_with_the_evaluator(self, measured: Measured) -> None:
        for name in measured.names:
            row, labels = measured.rows[name], measured.labels(name)
            acs = evaluate(labels, labels).acs_prediction
            assert row["acs_px"] == ("" if math.isnan(acs) else str(acs))
            assert int(row["n_crystals"]) == np.unique(labels[labels > 0]).size
            assert int(row["n_touching_border"]) == grain_size(labels).cut
        row, sizes = measured.rows["tags"], grain_size(measured.labels("tags"))
        assert float(row["acs_um"]) == pytest.approx(0.25 * sizes.acs)
        assert float(row["astm_g_planimetric"]) == pytest.approx(sizes.planimetric_g(0.25))
        assert float(row["astm_g_intercept"]) == pytest.approx(sizes.intercept_g(0.25))
        assert any(row["touches_border"] == "True" for row in measured.crystals)

    def test_an_image_without_crystals_has_no_size(self, measured: Measured) -> None:
        row = measured.rows["black"]
        assert (row["status"], row["n_crystals"], row["acs_px"], row["acs_low_px"]) == ("ok", "0", "", "")
        assert row["acs_coverage"] == row["d50_px"] == row["mean_intercept_px"] == ""

    def test_pixels_outside_of_the_grain_are_zeroed_and_no_part_of_the_frame(self, measured: Measured) -> None:
        labels = measured.labels("masked")
        assert labels[:, :32].any()
        assert not labels[:, 32:].any()
        assert float(measured.rows["masked"]["covered"]) == pytest.approx((labels > 0).mean() * 2)

    def test_parquet_holds_what_csv_does(self, measured: Measured) -> None:
        table = parquet.read_table(measured.out / "crystals.parquet")
        assert table.column_names == list(measured.crystals[0])
        assert table.column_names[:3] == ["image", "label", "area_px"]
        assert {str(table.schema.field(name).type) for name in table.column_names if name.endswith("_um")} == {"double"}
        for name in table.column_names:
            values = ["" if value is None else str(value) for value in table[name].to_pylist()]
            assert values == [row[name] for row in measured.crystals]

    def test_sizes_are_in_micrometres_where_the_scale_is_known(self, measured: Measured) -> None:
        assert np.allclose(measured.column("masked", "area_um2"), measured.column("masked", "area_px") / 4)
        assert np.allclose(measured.column("masked", "feret_max_um"), measured.column("masked", "feret_max_px") / 2)
        assert {row["area_um2"] for row in measured.crystals if row["image"] == "-x"} == {""}
        assert measured.rows["-x"]["astm_g_planimetric"] == ""


def agrees_with_scikit_image(measured: Measured, name: str, labels: NDArray[Any]) -> None:
    properties = ("label", "area", "bbox", "centroid", "equivalent_diameter_area", "feret_diameter_max")
    found = regionprops_table(labels, properties=(*properties, "axis_major_length", "axis_minor_length"))
    top, left, bottom, right = (found[f"bbox-{side}"] for side in range(4))
    cut = (top == 0) | (left == 0) | (bottom == labels.shape[0]) | (right == labels.shape[1])
    expected = {
        "label": found["label"],
        "area_px": found["area"],
        "equivalent_diameter_px": found["equivalent_diameter_area"],
        "feret_max_px": found["feret_diameter_max"],
        "feret_min_px": feret_diameters(labels).shortest,
        "length_px": np.maximum(bottom - top, right - left),
        "bbox_x_px": left,
        "bbox_y_px": top,
        "bbox_width_px": right - left,
        "bbox_height_px": bottom - top,
        "major_axis_px": found["axis_major_length"],
        "axis_ratio": found["axis_minor_length"] / found["axis_major_length"],
        "centroid_x_px": found["centroid-1"],
        "centroid_y_px": found["centroid-0"],
    }
    for column, values in expected.items():
        assert np.allclose(measured.column(name, column), values), column
    told = [row["touches_border"] for row in measured.crystals if row["image"] == name]
    assert told == [str(bool(value)) for value in cut]


class TestExports:
    def test_imagej_reads_the_same_masks(self, measured: Measured) -> None:
        for name in measured.names:
            labels = measured.labels(name)
            rois = read_rois(measured.out / "rois" / f"{name}.zip")
            assert [int(roi.name) for roi in rois] == np.unique(labels[labels > 0]).tolist()
            assert all(np.array_equal(mask_of(roi, labels.shape), labels == int(roi.name)) for roi in rois)

    def test_cellpose_files_hold_the_masks_and_name_the_image(self, measured: Measured) -> None:
        for name in measured.names:
            file = measured.out / "cellpose" / f"{name}_seg.npy"
            content = np.load(file, allow_pickle=True).item()
            assert np.array_equal(content["masks"], measured.labels(name))
            assert Path(content["filename"]) == Path(measured.rows[name]["file"]).resolve()
            assert set(np.unique(content["outlines"])) == set(np.unique(content["masks"])) | {0}
            # What our own importer reads without unpickling.
            assert np.array_equal(array_of(file, read_pickled_dict(file)["masks"]), content["masks"])

    def test_coco_is_read_by_pycocotools_and_by_our_importer(self, measured: Measured, tmp_path: Path) -> None:
        file = measured.out / "coco.json"
        coco = COCO(str(file))
        content = json.loads(file.read_text())
        for image, name in zip(content["images"], measured.names, strict=True):
            labels = measured.labels(name)
            assert (measured.images / image["file_name"]).resolve() == Path(measured.rows[name]["file"]).resolve()
            annotations = coco.loadAnns(coco.getAnnIds([image["id"]]))
            crystals = np.unique(labels[labels > 0])
            assert len(annotations) == crystals.size
            for annotation, crystal in zip(annotations, crystals, strict=True):
                assert np.array_equal(coco.annToMask(annotation) > 0, labels == crystal)
                assert annotation["area"] == (labels == crystal).sum()
                x, y, width, height = map(int, annotation["bbox"])
                inside = labels[y : y + height, x : x + width] == crystal
                assert inside.sum() == annotation["area"]
                assert all(inside.any(axis=axis).all() for axis in (0, 1))
        two = [image for image in content["images"] if image["file_name"].startswith("set/images")]
        ids = {image["id"] for image in two}
        content |= {"images": two, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}
        (tmp_path / "two.json").write_text(json.dumps(content))
        import_dataset("coco", tmp_path / "two.json", tmp_path / "set", images=measured.images)
        samples = open_dataset(tmp_path / "set").samples
        assert [sample.name for sample in samples] == ["masked", "plain"]
        assert all(np.array_equal(sample.label, measured.labels(sample.name)) for sample in samples)

    def test_outlines_of_pieces_and_holes_give_the_mask(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        n_composite = 0
        for _ in range(40):
            labels = np.where(rng.random((14, 17)) < 0.8, rng.integers(0, 3, (14, 17)), 0).astype(np.int32)
            numbers, boxes = [5, 90_000], []
            if not {1, 2} <= set(np.unique(labels)):
                continue
            for crystal in (1, 2):
                y, x = np.nonzero(labels == crystal)
                boxes.append((int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1))
            (tmp_path / "rois.zip").write_bytes(imagej_rois(labels, numbers, boxes))
            rois = read_rois(tmp_path / "rois.zip")
            assert [int(roi.name) for roi in rois] == numbers
            for crystal, roi in enumerate(rois, start=1):
                assert np.array_equal(mask_of(roi, labels.shape), labels == crystal)
                n_composite += roi.composite
        assert n_composite == 80

    def test_holes_run_the_other_way_round(self) -> None:
        mask = np.ones((5, 6), bool)
        mask[2, 2:4] = False
        outer, hole = (_signed_area(loop) for loop in outline_loops(mask))
        assert (outer, hole) in {(30, -2), (-30, 2)}


def read_rois(file: Path) -> list[roifile.ImagejRoi]:
    rois = roifile.roiread(file)
    return rois if isinstance(rois, list) else [rois]


def mask_of(roi: roifile.ImagejRoi, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in a ROI, by the rule of even and odd."""
    mask = np.zeros(shape, bool)
    for loop in roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]:
        mask ^= grid_points_in_poly(shape, np.asarray(loop, float)[:, ::-1] - 0.5)
    return mask


def _signed_area(loop: NDArray[np.int64]) -> float:
    (x, y), (after_x, after_y) = loop.T, np.roll(loop, -1, axis=0).T
    return float((x * after_y - after_x * y).sum() / 2)


class _Page(HTMLParser):
    """What a browser would do with a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


class TestReport:
    def test_hostile_names_are_text(self, measured: Measured) -> None:
        page = _Page((measured.out / "report.html").read_text(encoding="utf-8"))
        assert page.handlers == []
        assert page.tags["img"] == len(measured.names)
        # The library, two plots, and what fits them into the page.
        assert page.tags["script"] == 4
        assert all(address.startswith(("data:image/jpeg;base64,", "overlays/")) for address in page.addresses)
        assert all(name in page.text for name in measured.names)
        assert "[31m.png cannot be read" in page.text

    def test_pictures_lead_to_their_overlays(self, measured: Measured) -> None:
        from urllib.parse import unquote

        page = _Page((measured.out / "report.html").read_text(encoding="utf-8"))
        linked = [unquote(address) for address in page.addresses if address.startswith("overlays/")]
        assert len(linked) == len(measured.names)
        assert all((measured.out / address).is_file() for address in linked)

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
    def test_a_browser_draws_the_plots_and_runs_nothing_else(self, measured: Measured) -> None:
        page = (measured.out / "report.html").as_uri()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
        done = subprocess.run(["chromium", *flags, "--dump-dom", page], capture_output=True, text=True, timeout=120)
        assert done.stdout.count('<svg class="main-svg"') >= 2
        drawn = _Page(done.stdout)
        assert drawn.handlers == []
        assert (drawn.tags["img"], drawn.tags["script"]) == (len(measured.names), 4)


class TestModel:
    def test_a_trained_model_measures_with_its_checkpoint(
        self, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_image(tmp_path / "a.png", 1)
        shutil.copytree(models.out / "runs", tmp_path / "runs")
        (run,) = tmp_path.glob("runs/squares/voronoi/*")
        measure = ["measure", "--model", str(run), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
        assert main(measure) == 0
        assert "1 images, 0 images failed" in capsys.readouterr().out
        (checkpoint,) = tmp_path.glob("runs/train/*/*/checkpoint.safetensors")
        content = checkpoint.read_bytes()
        checkpoint.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert main(measure) == 2
        assert f"{checkpoint.resolve()} is not the checkpoint that" in capsys.readouterr().err
        checkpoint.unlink()
        assert main(measure) == 2
        assert "is not there: keep" in capsys.readouterr().err

    def test_a_failed_run_is_no_model(self, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        record = json.loads((models.run("watershed") / "record.json").read_text())
        record |= {"status": "failed", "error": {"type": "ImageFailed", "message": "square3: no luck"}}
        (tmp_path / "record.json").write_text(json.dumps(record))
        make_image(tmp_path / "a.png", 1)
        assert main(["measure", "--model", str(tmp_path), str(tmp_path / "a.png")]) == 2
        assert "ended as failed: ImageFailed: square3: no luck" in capsys.readouterr().err

    def test_what_needs_the_truth_is_no_model(
        self, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_image(tmp_path / "a.png", 1)
        assert models.measure("truth", tmp_path / "a.png") == 2
        assert "is of truth, which looks at the truth" in capsys.readouterr().err

    def test_a_folder_without_a_record_is_no_model(
        self, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_image(tmp_path / "a.png", 1)
        assert main(["measure", "--model", str(models.out), str(tmp_path / "a.png")]) == 2
        assert "name the folder of one experiment" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ("absent.png", "absent.png does not exist"),
            ("notes.txt", "notes.txt is no image format"),
            ("empty", "empty holds no image"),
        ],
    )
    def test_what_is_no_image_is_a_wrong_call(
        self, models: Models, tmp_path: Path, named: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "notes.txt").touch()
        (tmp_path / "empty").mkdir()
        assert models.measure("watershed", tmp_path / named) == 2
        assert message in capsys.readouterr().err

    def test_other_files_are_not_overwritten(
        self, models: Models, squares: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {file: file.read_bytes() for file in squares.rglob("*") if file.is_file()}
        assert models.measure("watershed", squares, "--out", squares) == 2
        assert "name a new folder with --out" in capsys.readouterr().err
        assert {file: file.read_bytes() for file in squares.rglob("*") if file.is_file()} == before

    def test_without_the_extra_labels_and_csv_are_there_and_it_is_named(
        self,
        models: Models,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        make_image(tmp_path / "a.png", 1)
        measure = (tmp_path / "a.png", "--out", tmp_path / "out", "--um-per-px", "2")
        for library in ("plotly", "pyarrow", "roifile"):
            monkeypatch.setitem(sys.modules, library, None)
        assert models.measure("watershed", *measure) == 0
        error = capsys.readouterr().err
        for file, library in (("report.html", "plotly"), ("crystals.parquet", "pyarrow"), ("rois/", "roifile")):
            assert f"{file} is left out, as it needs {library}: pip install 'crystalbench[measure]'" in error
            assert not (tmp_path / "out" / file).exists()
        assert read_csv(tmp_path / "out" / "crystals.csv")[0]["area_um2"]
        assert (tmp_path / "out" / "labels" / "a.png").exists()


@dataclass
class Workshop:
    """Micrographs, and the command that measures them with a method that notes each by its first pixel."""

    folder: Path
    models: Models
    count: int

    def __post_init__(self) -> None:
        self.audit = self.folder / "audit.txt"
        self.audit.touch()
        self.out = self.folder / "out"
        for number in range(self.count):
            make_image(self.image(number), number)

    def image(self, number: int) -> Path:
        return self.folder / "images" / f"{number:03d}.png"

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crystalbench", "measure", "--model", str(self.models.run("noted"))]
        command += ["--adapter", str(self.models.adapter), "--out", str(self.out), str(self.folder / "images")]
        pipe = subprocess.PIPE
        environment = os.environ | {"AUDIT": str(self.audit)}
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def measure(self, status: int = 0) -> str:
        process = self.start()
        output, errors = process.communicate(timeout=300)
        assert process.returncode == status, errors
        return output + errors

    @property
    def done(self) -> set[int]:
        """The images whose label map is known to be there."""
        file = self.out / "work" / "images.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return {int(json.loads(line)["name"]) for line in lines if line.endswith("\n")}

    @property
    def measured(self) -> dict[Path, int]:
        """What is known of measured images, and since when."""
        return {file: file.stat().st_mtime_ns for file in (self.out / "work" / "measured").glob("[!.]*.json")}

    def noted(self) -> list[int]:
        return [int(line) for line in self.audit.read_text().split()]


def test_kill_9_does_no_image_twice(models: Models, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, models, 30)
    for place in ("segment", "measure"):
        process = workshop.start()
        while len(workshop.done if place == "segment" else workshop.measured) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.communicate()
        # The worker ends with its driver, but not in the same moment.
        time.sleep(0.5)
        done, noted, measured = workshop.done, workshop.noted(), workshop.measured
        assert len(done) < 30 if place == "segment" else len(done) == 30
        # What was in the making when the process was killed is made again, and nothing else.
        assert len(noted) <= len(done) + 1
    assert len(measured) < 30
    workshop.measure()
    assert workshop.noted() == noted
    assert measured.items() <= workshop.measured.items()
    assert [row["status"] for row in read_csv(workshop.out / "images.csv")] == ["ok"] * 30


def test_an_image_that_ends_the_worker_costs_no_other(models: Models, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, models, 5)
    pixels = make_image(workshop.image(2), 2)
    pixels[0, 0] = 255
    write_image(workshop.image(2), pixels)
    printed = workshop.measure(status=1)
    assert "002: Crash: the worker ended with exit status 7" in printed
    assert sorted(workshop.noted()) == [0, 1, 3, 4]
    assert [row["status"] for row in read_csv(workshop.out / "images.csv")] == ["ok", "ok", "failed", "ok", "ok"]
    # The image is mended, a label map corrected by hand, another one taken away.
    make_image(workshop.image(2), 2)
    corrected = np.zeros((48, 64), np.int32)
    corrected[2:6, 2:7] = 8
    write_labels(workshop.out / "labels", "000", corrected)
    (workshop.out / "labels" / "001.png").unlink()
    workshop.measure()
    assert sorted(workshop.noted()) == [0, 1, 1, 2, 3, 4]
    crystals = read_csv(workshop.out / "crystals.csv")
    assert [(row["label"], row["area_px"]) for row in crystals if row["image"] == "000"] == [("8", "20")]
    assert {row["image"] for row in crystals} == {"000", "001", "002", "003", "004"}


def test_a_model_that_cannot_be_loaded_is_no_fault_of_the_images(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image(tmp_path / "a.png", 1)
    monkeypatch.setenv("BROKEN", "1")
    call = (tmp_path / "a.png", "--adapter", models.adapter, "--out", tmp_path / "out")
    assert models.measure("noted", *call) == 1
    assert "noted cannot segment: RuntimeError: no luck with the weights; see" in capsys.readouterr().err
    assert not (tmp_path / "out" / "images.csv").exists()


def test_a_method_that_is_not_built_in_has_to_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: Models
) -> None:
    record = json.loads((models.run("watershed") / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(record | {"method": "mine"}))
    make_image(tmp_path / "a.png", 1)
    assert main(["measure", "--model", str(tmp_path), str(tmp_path / "a.png")]) == 2
    assert "name it with --adapter" in capsys.readouterr().err


def scale_of(image: Micrograph) -> Scale:
    return find_scales([image], None)[image.name]


class TestScale:
    GREY = np.zeros((4, 5), np.uint8)

    @pytest.mark.parametrize(
        ("tags", "um_per_px", "told"),
        [
            ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "micron"}}, 0.5, "ImageJ"),
            ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "\\u00B5m"}}, 0.5, "ImageJ"),
            ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "nm"}}, 0.00025, "ImageJ"),
            ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "pixel"}}, None, ""),
            ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}}, 0.25, "OME"),
            (
                {
                    "ome": True,
                    "metadata": {
                        "axes": "YX",
                        "PhysicalSizeX": 3,
                        "PhysicalSizeXUnit": "nm",
                        "PhysicalSizeY": 3,
                        "PhysicalSizeYUnit": "nm",
                    },
                },
                0.003,
                "OME",
            ),
            ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5, "TIFF resolution"),
            ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5, "TIFF resolution"),
            ({"resolution": (300, 300), "resolutionunit": "INCH"}, None, "TIFF resolution says 300 dpi"),
            ({"resolution": (28.346, 28.346), "resolutionunit": "CENTIMETER"}, None, "TIFF resolution says 72 dpi"),
            ({"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}, None, "TIFF resolution says 0.5 x 1 um"),
            ({"resolution": (2, 2), "resolutionunit": "NONE"}, None, ""),
            ({}, None, ""),
        ],
    )
    def test_tags_of_a_tiff(self, tmp_path: Path, tags: dict[str, Any], um_per_px: float | None, told: str) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, self.GREY, **tags)
        scale = scale_of(Micrograph("a", file, None))
        assert scale.um_per_px == (um_per_px and pytest.approx(um_per_px))
        assert (scale.origin or scale.note).startswith(told)
        assert bool(scale.origin or scale.note) is bool(told)

    def test_the_command_goes_before_the_manifest_the_data_set_and_the_tags(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            tags = {"resolution": (2, 2), "metadata": {"unit": "um"}}
            (tmp_path / "images").mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / "images" / f"{name}.tif", self.GREY, imagej=True, **tags)
        (tmp_path / "manifest.csv").write_text("image,um_per_px\na.tif,0.1\nb.tif,\n")
        (tmp_path / "dataset.yaml").write_text("um_per_px: 0.2\n")
        a, b = find_micrographs([tmp_path])
        assert find_scales([a, b], None) == {"a": Scale(0.1, "manifest.csv"), "b": Scale(0.2, "dataset.yaml")}
        assert find_scales([a, b], 3.0) == dict.fromkeys("ab", Scale(3.0, "--um-per-px"))
        (tmp_path / "dataset.yaml").unlink()
        assert scale_of(b) == Scale(0.5, "ImageJ")

    def test_a_damaged_tiff_has_no_scale(self, tmp_path: Path) -> None:
        (tmp_path / "a.tif").write_bytes(b"II*\x00\xff\xff\xff\x00rest")
        assert scale_of(Micrograph("a", tmp_path / "a.tif", None)) == Scale()


class TestImages:
    def test_each_file_once_and_each_name_once(self, tmp_path: Path) -> None:
        for place in ("a/x.png", "b/x.png", "b/x-2.png", "b/x.tif", f"b/{'ü' * 120}.png"):
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).touch()
        found = find_micrographs([tmp_path / "a" / "x.png", tmp_path / "a", tmp_path / "b"])
        names = {image.path.relative_to(tmp_path).as_posix(): image.name for image in found}
        assert names.pop(f"b/{'ü' * 120}.png") == "ü" * 100
        assert names == {"a/x.png": "x", "b/x-2.png": "x-2", "b/x.png": "x-3", "b/x.tif": "x-4"}

    def test_names_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / os.fsdecode(b"\xff.png")
        file.touch()
        with pytest.raises(DataError, match="rename it"):
            find_micrographs([tmp_path])

    def test_two_grain_masks_are_refused(self, squares: Path) -> None:
        write_labels(squares / "grains", "square1", np.ones((48, 64), np.int32))
        np.save(squares / "grains" / "square1.npy", np.ones((48, 64), np.int32))
        with pytest.raises(DataError, match="have one stem"):
            find_micrographs([squares])


def _tested(truth: float, prediction: float) -> ImageRecord:
    areas = {"areas_truth": [truth] if truth else [], "areas_prediction": [prediction] if prediction else []}
    scores = {"matches": [], "aji_intersection": 0, "aji_union": 1, **areas}
    return ImageRecord(image="a", status="ok", group="a", difficulty=1, scores=scores)


class TestTolerance:
    def test_it_is_the_range_of_ratios_with_the_coverage_of_its_order(self) -> None:
        images = [_tested(100, 100), _tested(400, 100), _tested(100, 400), _tested(0, 9), _tested(9, 0)]
        found = tolerance(images)
        assert found is not None
        assert (found.low, found.high, found.n, found.coverage) == (0.5, 2.0, 3, 0.5)
        assert tolerance(images[:1]) is None

    def test_95_percent_takes_39_images_and_leaves_out_one_in_40(self) -> None:
        images = [_tested(number**2, 1) for number in range(1, 80)]
        few, many = tolerance(images[:39]), tolerance(images)
        assert few is not None
        assert many is not None
        assert (few.low, few.high, few.coverage) == pytest.approx((1, 39, 0.95))
        assert (many.low, many.high, many.coverage) == pytest.approx((2, 78, 0.95))

    def test_so_many_new_images_lie_inside_as_it_says(self) -> None:
        rng = np.random.default_rng(0)
        inside = []
        for _ in range(2000):
            # Skewed, and off by a third on average.
            *tested, new = rng.lognormal(0.3, 0.5, 20)
            found = tolerance([_tested(ratio**2, 1) for ratio in tested])
            assert found is not None
            inside.append(found.low <= new <= found.high)
        assert np.mean(inside) == pytest.approx(found.coverage, abs=0.02)


@pytest.mark.skipif(not (SHARED / "data/ffc_iron").is_dir(), reason="needs the micrographs of shared/data")
@pytest.mark.parametrize("count", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_real_micrographs(models: Models, tmp_path: Path, count: int) -> None:
    images = sorted((SHARED / "data/ffc_iron/images").glob("*.png"))[:count]
    out = tmp_path / "out"
    assert models.measure("watershed", *images, "--um-per-px", "0.5", "--out", out) == 0
    measured = Measured(images[0].parent, out, 0, "")
    assert measured.names == [image.stem for image in images]
    for name in measured.names:
        labels = measured.labels(name)
        assert labels.shape == (800, 800)
        agrees_with_scikit_image(measured, name, labels)
        assert np.array_equal(np.load(out / "cellpose" / f"{name}_seg.npy", allow_pickle=True).item()["masks"], labels)
        rois = read_rois(out / "rois" / f"{name}.zip")
        assert len(rois) == labels.max() > 100
        if count == 1:
            assert all(np.array_equal(mask_of(roi, labels.shape), labels == int(roi.name)) for roi in rois[::20])


@pytest.mark.slow
def test_a_thousand_images(models: Models, tmp_path: Path) -> None:
    for number in range(1000):
        make_image(tmp_path / "images" / f"{number:04d}.png", number % 200, (96, 128))
    begin = time.monotonic()
    assert models.measure("watershed", tmp_path / "images", "--um-per-px", "1", "--out", tmp_path / "out") == 0
    seconds = time.monotonic() - begin
    size = (tmp_path / "out" / "report.html").stat().st_size
    print(f"\n1000 images in {seconds:.0f} s, report {size / 1e6:.1f} MB")
    assert len(read_csv(tmp_path / "out" / "images.csv")) == 1000
    assert label(read_labels(tmp_path / "out" / "labels" / "0999.png") > 0).max() > 0
