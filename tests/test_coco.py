"""Importing COCO's JSON, compared with pycocotools, and refusing what is no such file."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from skimage.draw import ellipse
from skimage.measure import find_contours

from crystalbench._exceptions import ConfigurationError, DataError, UnknownNameError
from crystalbench.cli import main
from crystalbench.data import import_dataset, open_dataset, write_image
from crystalbench.data._coco import _of_polygons
from crystalbench.data._run_lengths import decode_runs

HEIGHT, WIDTH = 40, 50
TILES = np.kron(np.arange(20).reshape(4, 5), np.ones((10, 10), int))


def box(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask in the uncompressed form, by an independent way."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:-1] != flat[:-2])
    edges = [0, *changes.tolist(), mask.size]
    return {"size": list(mask.shape), "counts": [b - a for a, b in pairwise(edges)]}


def compressed(mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def annotation(segmentation: Any, image: int = 1, **others: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": segmentation, **others}


def make(folder: Path, annotations: list[Any], names: tuple[str, ...] = ("a.png",), **others: Any) -> Path:
    images = []
    for number, name in enumerate(names, start=1):
        image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        write_image(folder / "images" / name, image)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    categories = [{"id": 1, "name": "crystal"}, {"id": 2, "name": "pore"}]
    content = {"images": images, "annotations": annotations, "categories": categories, **others}
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def labels_of(folder: Path) -> list[NDArray[np.int32]]:
    return [sample.label for sample in open_dataset(folder).samples]


class TestImport:
    def test_polygons_and_run_lengths_of_several_images(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        annotations = []
        for image, form in ((1, runs), (2, compressed), (3, None)):
            for tile in range(1, 20):
                y, x = np.argwhere(tile == TILES)[0]
                segmentation = form(tile == TILES) if form else box(float(x), float(y), 10, 10)
                annotations.append(annotation(segmentation, image))
        src = make(tmp_path / "src", annotations, ("a.png", "sub/b.png", "c.png"))
        (tmp_path / "src" / "manifest.csv").write_text("image,group,um_per_px\na.png,x,0.5\nb.png,y,\nc.png,x,\n")
        assert main(["data", "import", "coco", str(src.parent), str(tmp_path / "dst")]) == 0
        assert "3 images, 57 crystals" in capsys.readouterr().out
        assert all(np.array_equal(label, TILES) for label in labels_of(tmp_path / "dst"))
        samples = open_dataset(tmp_path / "dst").samples
        assert [(s.name, s.group, s.um_per_px) for s in samples] == [
            ("a", "x", 0.5),
            ("b", "y", None),
            ("c", "x", None),
        ]
        assert main(["data", "verify", str(tmp_path / "dst")]) == 0

    def test_where_annotations_overlap_the_smaller_one_has_the_pixels(self, tmp_path: Path) -> None:
        # The small one comes first, lies within the large one, and is as large as the last.
        annotations = [annotation(box(10, 10, 5, 5)), annotation(box(0, 0, 20, 20)), annotation(box(12, 10, 5, 5))]
        report = import_dataset("coco", make(tmp_path / "src", annotations), tmp_path / "dst")
        (label,) = labels_of(tmp_path / "dst")
        assert np.bincount(label.ravel())[1:].tolist() == [25, 400 - 35, 10]
        assert "a.png: 35 px are claimed by several annotations and given to the smallest" in report.notes

    def test_what_is_covered_or_outside_is_said(self, tmp_path: Path) -> None:
        annotations = [annotation(box(0, 0, 9, 9))] * 2 + [annotation(box(-30, 5, 20, 9))]
        report = import_dataset("coco", make(tmp_path / "src", annotations), tmp_path / "dst")
        assert report.n_crystals == 1
        assert "a.png: 2 annotations have no pixel left, being outside, covered or too small" in report.notes

    def test_what_reaches_over_the_image_is_cut(self, tmp_path: Path) -> None:
        annotations = [annotation(box(-30, -1000, 40, 2000)), annotation(box(40, 0, 1e3, 1e5))]
        import_dataset("coco", make(tmp_path / "src", annotations), tmp_path / "dst")
        (label,) = labels_of(tmp_path / "dst")
        assert np.array_equal(label[0], np.repeat([1, 0, 2], [10, 30, 10]))
        assert (label == label[0]).all()

    def test_a_crystal_in_two_pieces_is_one(self, tmp_path: Path) -> None:
        src = make(tmp_path / "src", [annotation([*box(0, 0, 3, 3), *box(10, 10, 3, 3)])])
        assert import_dataset("coco", src, tmp_path / "dst").n_crystals == 1
        assert np.count_nonzero(labels_of(tmp_path / "dst")[0]) == 18

    def test_crowds_and_other_categories_are_left_out_and_counted(self, tmp_path: Path) -> None:
        annotations = [
            annotation(box(0, 0, 9, 9)),
            annotation(box(10, 0, 9, 9), category_id=2),
            annotation(runs(TILES == 19), iscrowd=1),
        ]
        src = make(tmp_path / "src", annotations, ("a.png", "b.png"))
        report = import_dataset("coco", src, tmp_path / "all")
        assert report.n_crystals == 2
        assert report.notes[0] == "1 crowd annotations are left out: their pixels are background"
        assert "b.png: has no annotation" in report.notes
        report = import_dataset("coco", src, tmp_path / "one", categories=["crystal"])
        assert report.n_crystals == 1
        assert "1 annotations of other categories are left out" in report.notes
        with pytest.raises(UnknownNameError, match=r"'crystall'.*did you mean 'crystal'"):
            import_dataset("coco", src, tmp_path / "dst", categories=["crystall"])

    def test_a_polygon_is_what_pycocotools_draws_but_for_its_rim(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            mask = np.zeros((200, 300), np.uint8)
            mask[
                ellipse(*rng.integers(60, 140, 2), *rng.integers(10, 60, 2), mask.shape, rotation=rng.uniform(0, 3))
            ] = 1
            (outline,) = find_contours(mask, 0.5)
            polygon = [(outline[:, ::-1] + 0.5).ravel().tolist()]
            ours = _of_polygons(polygon, mask.shape)
            theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygon, *mask.shape))).astype(bool)
            assert np.array_equal(ours, mask)
            assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9

    def test_run_lengths_are_those_of_pycocotools(self) -> None:
        rng = np.random.default_rng(0)
        for share in (0.0, 0.01, 0.5, 0.99, 1.0):
            for shape in ((1, 1), (7, 1), (63, 311)):
                mask = rng.random(shape) < share
                for code in (runs(mask), compressed(mask)):
                    assert np.array_equal(decode_runs(code["counts"], shape), mask)

    @pytest.mark.parametrize("place", ["beside", "images", "above", "given"])
    def test_the_images_are_found(self, tmp_path: Path, place: str) -> None:
        src = make(tmp_path / "src", [annotation(box(0, 0, 9, 9))])
        folders = {"beside": ".", "images": "images", "above": "../images", "given": "../../elsewhere"}
        (src.parent / "annotations").mkdir()
        src = src.rename(src.parent / "annotations" / "instances.json")
        folder = src.parent / folders[place]
        folder.mkdir(exist_ok=True)
        (tmp_path / "src" / "images" / "a.png").rename(folder / "a.png")
        (tmp_path / "src" / "manifest.csv").write_text("image,group\na.png,batch-1\n")
        options = {"images": str(folder)} if place == "given" else {}
        assert import_dataset("coco", tmp_path / "src", tmp_path / "dst", **options).n_crystals == 1
        assert open_dataset(tmp_path / "dst").samples[0].group == "batch-1"


class TestStrangers:
    @pytest.mark.parametrize(
        "name", ["../secret.png", "SECRET", "sub/../../secret.png", "..\\secret.png", "C:secret.png"]
    )
    def test_images_elsewhere_are_refused(self, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        secret = tmp_path / "src" / "secret.png"
        write_image(secret, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        src = make(tmp_path / "src", [annotation(box(0, 0, 9, 9))])
        content = json.loads(src.read_text())
        content["images"][0]["file_name"] = name.replace("SECRET", str(secret))
        src.write_text(json.dumps(content))
        command = ["data", "import", "coco", str(src), str(tmp_path / "dst")]
        assert main([*command, "--set", f"images={src.parent / 'images'}"]) == 2
        error = capsys.readouterr().err
        assert "annotations.json names the image" in error
        assert "give a path below the folder of the images" in error
        assert [path.name for path in tmp_path.iterdir()] == ["src"]

    @pytest.mark.parametrize(
        ("segmentation", "problem"),
        [
            ([[0, 0, 9, 0, float("nan"), 9]], r"annotations\.0\.segmentation\.polygons\.0\.4.*finite"),
            ([[0, 0, 9, 0, float("inf"), 9]], "finite"),
            ([[0, 0, 9, 0, 1e300, 9]], "less than or equal to 1000000"),
            ([[0, 0, 9, 0, "x", 9]], "valid number"),
            ([[0, 0, 9, 9]], "at least 6"),
            ([[0, 0, 9, 0, 9, 9, 4]], "annotation 7 of image 1 cannot be drawn: a polygon has an x without its y"),
            ([], "it has no segmentation"),
            (None, "segmentation"),
            ({"counts": [5]}, r"segmentation\.runs\.size"),
            ({"size": [2, 2], "counts": [4]}, "it is of 2 x 2, its image of 40 x 50 pixels"),
            ({"size": [40, 50], "counts": [1999]}, "runs do not add up to 40 x 50"),
            ({"size": [40, 50], "counts": [10**12]}, "runs do not add up"),
            ({"size": [40, 50], "counts": [2001, -1]}, "runs do not add up"),
            ({"size": [40, 50], "counts": "0" * 99}, "runs do not add up"),
            ({"size": [40, 50], "counts": "\u20ac"}, "no compressed run-length code at"),
            ({"size": [40, 50], "counts": "o" * 99}, "no compressed run-length code at"),
            ({"size": [40, 50], "counts": "P"}, "cut off"),
        ],
    )
    def test_what_cannot_be_drawn_is_named_and_nothing_is_left(
        self, tmp_path: Path, segmentation: Any, problem: str
    ) -> None:
        src = make(tmp_path / "src", [annotation(segmentation)])
        with pytest.raises(DataError, match=problem) as caught:
            import_dataset("coco", src, tmp_path / "dst")
        assert "annotations.json" in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["src"]

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"images": []}, "images: List should have at least 1 item"),
            ({"annotations": [annotation(box(0, 0, 9, 9), image=9)]}, "does not list: annotation 7 of image 9"),
            ({"images": [{"id": 1, "file_name": f"{name}/a.png"} for name in "xy"]}, "several images the id 1"),
            ({"images": [{"id": n, "file_name": f"{n}/a.png"} for n in (1, 2)]}, "several images called a"),
            ({"images": [{"id": 1, "file_name": "gone.png"}]}, r"gone\.png does not exist"),
            ({"images": [{"id": 1, "file_name": ""}]}, "does not exist"),
            ({"images": [{"id": 1, "file_name": "a.png", "height": 41}]}, r"a\.png is 40 x 50, not 41 x"),
            ({"images": {"a": 1}}, "images: Input should be a valid (list|array)"),
        ],
    )
    def test_files_that_contradict_themselves_or_the_images(
        self, tmp_path: Path, changes: dict[str, Any], problem: str
    ) -> None:
        src = make(tmp_path / "src", **{"annotations": [], **changes})
        with pytest.raises(DataError, match=problem):
            import_dataset("coco", src, tmp_path / "dst")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
    def test_what_is_no_such_json(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json is no COCO file"):
            import_dataset("coco", tmp_path, tmp_path / "dst")

    def test_a_folder_without_one_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="coco importer reads one"):
            import_dataset("coco", tmp_path, tmp_path / "dst")
        for name in ("a", "b"):
            (tmp_path / f"{name}.json").write_text("{}")
        with pytest.raises(DataError, match=r"name one of \S+a\.json, \S+b\.json"):
            import_dataset("coco", tmp_path, tmp_path / "dst")
        with pytest.raises(DataError, match="does not exist"):
            import_dataset("coco", tmp_path / "c.json", tmp_path / "dst")
        with pytest.raises(ConfigurationError, match="src of the coco importer"):
            import_dataset("coco", (tmp_path, tmp_path), tmp_path / "dst")

    def test_a_truncated_image_is_named(self, tmp_path: Path) -> None:
        src = make(tmp_path / "src", [annotation(box(0, 0, 9, 9))])
        image = src.parent / "images" / "a.png"
        image.write_bytes(image.read_bytes()[:300])
        with pytest.raises(DataError, match=r"a\.png cannot be read"):
            import_dataset("coco", src, tmp_path / "dst")
        assert [path.name for path in tmp_path.iterdir()] == ["src"]
