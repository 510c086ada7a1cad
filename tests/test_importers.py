"""Importing label maps, drawn boundaries and colour maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import yaml
from conftest import SHARED
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import expand_labels, find_boundaries

from crystalbench._exceptions import ConfigurationError, DataError, UnknownNameError
from crystalbench.data._dataset import open_dataset
from crystalbench.data._images import read_image, read_labels, write_image, write_labels
from crystalbench.data._importers import (
    IMPORTERS,
    import_boundaries,
    import_colours,
    import_dataset,
    import_labels,
)
from crystalbench.data._splits import read_split
from crystalbench.data._verify import verify_dataset

DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not in {DATA}")

TILES = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((10, 10), int))
COLOURS = np.random.default_rng(1).integers(1, 256, (10, 3)).astype(np.uint8) * (np.arange(10) > 0)[:, None].astype(
    np.uint8
)


def drawn(labels: NDArray[np.int64], dark: bool = True) -> NDArray[np.uint8]:
    changes = (np.diff(labels, axis=side, prepend=np.take(labels, [0], axis=side)) != 0 for side in (0, 1))
    return np.where(np.logical_or(*changes) == dark, 0, 255).astype(np.uint8)


def make_source(root: Path, folder: str, picture: NDArray[np.uint8], names: str = "abc", size: int = 30) -> Path:
    for seed, name in enumerate(names):
        image = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
        write_image(root / "images" / f"{name}.png", image)
        write_image(root / folder / f"{name}.png", picture)
    return root


def same_crystals(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    pairs = {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


class TestLabels:
    @pytest.mark.parametrize("folder", ["labels", "masks"])
    def test_round_trip(self, tmp_path: Path, folder: str) -> None:
        src = make_source(tmp_path / "src", folder, (TILES * 20).astype(np.uint8))
        report = import_labels(src, tmp_path / "out" / "dst")
        assert (report.n_images, report.n_crystals) == (3, 27)
        dataset = open_dataset(tmp_path / "out" / "dst")
        assert dataset.name == "dst"
        for sample in dataset.samples:
            assert np.array_equal(sample.label, TILES * 20)
            assert np.array_equal(sample.image, read_image(src / "images" / f"{sample.name}.png"))
        assert (dataset.root / "splits" / "fixed.json").is_file()
        assert dataset.split().changed == ()
        assert verify_dataset(dataset.root) == []
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["dst"]

    def test_groups_grains_and_settings_come_along(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "labels", TILES.astype(np.uint8))
        (src / "manifest.csv").write_text('image,group,um_per_px\na.png,"left, top",0.5\nb.png,y,\nc.png,y,\n')
        (src / "dataset.yaml").write_text("name: steel\nline_px: 3\nlicence: MIT\nmade_by: x\nseed: 4\n")
        write_image(src / "grains" / "a.png", np.full((30, 30), 255, np.uint8))
        report = import_labels(src, tmp_path / "dst")
        dataset = open_dataset(tmp_path / "dst")
        assert [(s.group, s.um_per_px) for s in dataset.samples] == [("left, top", 0.5), ("y", None), ("y", None)]
        assert dataset.samples[0].grain is not None
        assert (dataset.name, dataset.line_px, dataset.licence, dataset.made_by) == ("steel", 3, "MIT", None)
        assert any("no split" in note for note in report.notes)

    def test_two_folders(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "truth", TILES.astype(np.uint8))
        assert import_labels((src / "images", src / "truth"), tmp_path / "dst").n_crystals == 27

    def test_large_labels(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "labels", TILES.astype(np.uint8), "a")
        (src / "labels" / "a.png").unlink()
        write_labels(src / "labels", "a", TILES * 70_000)
        import_labels(src, tmp_path / "dst")
        assert np.array_equal(open_dataset(tmp_path / "dst").samples[0].label, TILES * 70_000)


class TestBoundaries:
    @pytest.mark.parametrize("dark", [True, False])
    @pytest.mark.parametrize("top", [1, 255])
    def test_components_between_the_lines(self, tmp_path: Path, dark: bool, top: int) -> None:
        picture = np.minimum(drawn(TILES, dark), top).astype(np.uint8)
        src = make_source(tmp_path / "src", "boundaries", picture)
        report = import_boundaries(src, tmp_path / "dst", boundary="dark" if dark else "light")
        label = open_dataset(tmp_path / "dst").samples[0].label
        assert report.n_crystals == 27
        assert np.array_equal(label == 0, drawn(TILES) == 0)
        assert same_crystals(label[label > 0], TILES[label > 0])
        assert open_dataset(tmp_path / "dst").line_px == 1

    def test_gaps_are_kept(self, tmp_path: Path) -> None:
        picture = drawn(TILES)
        picture[10, 5] = 255
        src = make_source(tmp_path / "src", "masks", picture)
        import_boundaries(src, tmp_path / "dst")
        label = open_dataset(tmp_path / "dst").samples[0].label
        assert label.max() == 8
        assert label[5, 5] == label[15, 5]

    def test_a_diagonal_line_separates(self, tmp_path: Path) -> None:
        picture = np.where(np.eye(30), 0, 255).astype(np.uint8)
        report = import_boundaries(make_source(tmp_path / "src", "boundaries", picture), tmp_path / "dst")
        assert report.n_crystals == 6

    def test_line_width_is_measured(self, tmp_path: Path) -> None:
        picture = np.full((30, 30), 255, np.uint8)
        picture[12:17] = 0
        import_boundaries(make_source(tmp_path / "src", "boundaries", picture), tmp_path / "dst")
        assert open_dataset(tmp_path / "dst").line_px == 5

    @pytest.mark.parametrize("width", range(1, 7))
    @pytest.mark.parametrize("gaps", [False, True])
    @pytest.mark.parametrize("angle", [0, 10, 30, 45, 90])
    def test_every_line_width_is_measured_at_any_angle(
        self, tmp_path: Path, width: int, gaps: bool, angle: int
    ) -> None:
        y, x = np.mgrid[:200, :200]
        sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        lines = np.rint(y * cosine - x * sine) % 50 < width
        lines &= ~(gaps & (np.rint(x * cosine + y * sine) % 25 < 5))
        # A pore, say, that is drawn in the colour of the lines.
        lines[60:110, 60:110] = True
        src = make_source(tmp_path / "src", "boundaries", np.where(lines, 0, 255).astype(np.uint8), "a", 200)
        report = import_boundaries(src, tmp_path / "dst")
        assert open_dataset(tmp_path / "dst").line_px == width
        assert f"line_px is {width}" in report.notes

    def test_small_components_are_dropped_and_counted(self, tmp_path: Path) -> None:
        picture = np.full((30, 30), 255, np.uint8)
        picture[5:8, 5:8] = 0
        picture[6, 6] = 255
        src = make_source(tmp_path / "src", "boundaries", picture)
        assert import_boundaries(src, tmp_path / "all").n_crystals == 6
        report = import_boundaries(src, tmp_path / "large", min_area=2)
        assert report.n_crystals == 3
        assert sum("1 components under 2 px" in note for note in report.notes) == 3

    def test_the_wrong_way_round(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "boundaries", drawn(TILES, dark=False))
        with pytest.raises(DataError, match=r"a\.png would be \d+% boundary.*set boundary to light"):
            import_boundaries(src, tmp_path / "dst")

    def test_a_blank_drawing_is_one_crystal_and_said(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "boundaries", np.full((30, 30), 255, np.uint8), "a")
        report = import_boundaries(src, tmp_path / "dst")
        assert report.n_crystals == 1
        assert any("nothing is drawn" in note for note in report.notes)


class TestColours:
    def test_one_label_a_colour(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "colours", COLOURS[TILES * (TILES != 5)])
        report = import_colours(src, tmp_path / "dst")
        assert report.n_crystals == 24
        label = open_dataset(tmp_path / "dst").samples[0].label
        assert same_crystals(label, TILES * (TILES != 5))
        assert not label[TILES == 5].any()

    def test_another_background(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "colors", COLOURS[TILES - 1])
        background = tuple(int(channel) for channel in COLOURS[4])
        import_colours(src, tmp_path / "dst", background=background)
        label = open_dataset(tmp_path / "dst").samples[0].label
        assert same_crystals(label, np.where(TILES == 5, 0, TILES))
        assert label[0, 0] > 0

    def test_a_colour_used_twice(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "colours", COLOURS[np.where(TILES == 9, 1, TILES)], "a")
        report = import_colours(src, tmp_path / "one")
        assert report.n_crystals == 8
        assert "a.png: 1 more pieces than colours" in report.notes
        assert import_colours(src, tmp_path / "two", connected=True).n_crystals == 9

    def test_sixteen_bit_colours_stay_apart(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "colours", COLOURS[TILES], "a")
        deep = np.stack([TILES + 60_000, TILES * 0 + 1, TILES * 0], axis=2).astype(np.uint16)
        (src / "colours" / "a.png").write_bytes(imagecodecs.png_encode(deep))
        assert import_colours(src, tmp_path / "dst").n_crystals == 9

    def test_blended_or_lossy_colours(self, tmp_path: Path) -> None:
        blended = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
        src = make_source(tmp_path / "src", "colours", blended, "a")
        with pytest.raises(DataError, match=r"a\.png.*blended"):
            import_colours(src, tmp_path / "dst")
        (src / "colours" / "a.png").unlink()
        Image.fromarray(COLOURS[TILES]).save(src / "colours" / "a.jpg")
        with pytest.raises(DataError, match=r"a\.jpg is JPEG"):
            import_colours(src, tmp_path / "dst")


class TestSplitOfTheSource:
    @pytest.fixture
    def src(self, tmp_path: Path) -> Path:
        # Drawn, so that the label maps, and with them the pixel hashes, are other ones after the import.
        src = make_source(tmp_path / "src", "boundaries", drawn(TILES), "abcd")
        (src / "splits").mkdir()
        return src

    def write(self, src: Path, subsets: dict[str, object]) -> None:
        images = {name: {"subset": subset, "sha256": "0" * 64} for name, subset in subsets.items()}
        content = {"name": "fixed", "kind": "split", "version": 3, "seed": 8, "images": images}
        (src / "splits" / "fixed.json").write_text(json.dumps(content))

    def test_is_taken_over_with_the_hashes_of_the_imported_pixels(self, tmp_path: Path, src: Path) -> None:
        self.write(src, {"a": "test", "b": ["train", "val"], "c": "train", "d": "val"})
        # Of one group, so that no split could be made.
        (src / "manifest.csv").write_text("image,group\n" + "".join(f"{name}.png,g\n" for name in "abcd"))
        report = import_boundaries(src, tmp_path / "dst")
        split = open_dataset(tmp_path / "dst").split()
        assert {name: split.subsets(name) for name in "abcd"} == {
            "a": ("test",),
            "b": ("train", "val"),
            "c": ("train",),
            "d": ("val",),
        }
        assert set(split.hashes) == set("abcd")
        assert split.changed == ()
        file = read_split(tmp_path / "dst", "fixed")
        assert (file.version, file.seed) == (3, 8)
        assert any("splits/fixed.json is taken over" in note for note in report.notes)

    @pytest.mark.parametrize(
        ("subsets", "said"),
        [
            ({"a": "test", "b": "val", "c": "train"}, "leaves out d"),
            ({"a": "test", "b": "val", "c": "val", "d": "val"}, "leaves train empty"),
            ({"a": "test", "b": "val", "c": "train", "d": "train", "ghost": "val"}, "ghost"),
            ({"a": "tset"}, "is no split"),
        ],
    )
    def test_one_that_does_not_fit_is_named_and_a_new_one_made(
        self, tmp_path: Path, src: Path, subsets: dict[str, object], said: str
    ) -> None:
        self.write(src, subsets)
        report = import_boundaries(src, tmp_path / "dst")
        assert any("not taken over" in note and said in note for note in report.notes)
        assert "a new split was made" in report.notes
        split = open_dataset(tmp_path / "dst").split()
        assert [sample.name for sample in split.samples] == list("abcd")


class TestAnyKind:
    def test_an_unknown_kind(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="'colours'"):
            import_dataset("colour", tmp_path, tmp_path / "dst")

    def test_options_that_cannot_be(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "boundaries", drawn(TILES, dark=False))
        with pytest.raises(UnknownNameError, match=r"'bondary'.*'boundary'"):
            import_dataset("boundaries", src, tmp_path / "dst", bondary="light")
        with pytest.raises(ConfigurationError, match=r"boundary of the boundaries importer.*light"):
            import_dataset("boundaries", src, tmp_path / "dst", boundary="red")
        assert import_dataset("boundaries", src, tmp_path / "dst", boundary="light").n_crystals == 27

    @pytest.mark.parametrize("kind", list(IMPORTERS))
    def test_a_source_without_its_folder(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "images").mkdir()
        with pytest.raises(DataError, match=kind):
            import_dataset(kind, tmp_path, tmp_path / "dst")

    def test_a_full_destination_is_left_alone(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "labels", TILES.astype(np.uint8))
        (tmp_path / "dst").mkdir()
        (tmp_path / "dst" / "mine.txt").write_text("mine")
        with pytest.raises(DataError, match="dst already holds files"):
            import_dataset("labels", src, tmp_path / "dst")
        assert [path.name for path in (tmp_path / "dst").iterdir()] == ["mine.txt"]

    def test_an_empty_destination_is_used(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "labels", TILES.astype(np.uint8))
        (tmp_path / "dst").mkdir()
        assert import_dataset("labels", src, tmp_path / "dst").n_images == 3

    def test_bad_files_are_all_named_and_nothing_is_left(self, tmp_path: Path) -> None:
        src = make_source(tmp_path / "src", "labels", TILES.astype(np.uint8), "abcd")
        (src / "images" / "a.png").write_bytes((src / "images" / "a.png").read_bytes()[:200])
        write_image(src / "labels" / "b.png", COLOURS[TILES])
        write_labels(src / "labels", "c", TILES[:9])
        with pytest.raises(DataError) as caught:
            import_dataset("labels", src, tmp_path / "dst")
        for name in ("images/a.png", "labels/b.png", "labels/c.png"):
            assert name in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["src"]


def picture_of(kind: str, truth: NDArray[np.int64]) -> NDArray[np.generic]:
    if kind == "labels":
        return truth.astype(np.uint16)
    if kind == "boundaries":
        return np.where(find_boundaries(expand_labels(truth, 99), mode="thick"), 0, 255).astype(np.uint8)
    colours = np.random.default_rng(0).integers(1, 256, (truth.max() + 1, 3)).astype(np.uint8)
    colours[0] = 0
    return colours[truth]


@needs_shared
@pytest.mark.parametrize("kind", ["labels", "boundaries", "colours"])
def test_real_crystals_come_back(tmp_path: Path, kind: str) -> None:
    src = tmp_path / "src"
    (src / "images").mkdir(parents=True)
    name = "001"
    shutil.copy(DATA / "ffc_iron" / "images" / f"{name}.png", src / "images")
    truth = read_labels(DATA / "ffc_iron" / "labels" / f"{name}.png").astype(np.int64)
    write_image(src / kind / f"{name}.png", picture_of(kind, truth))
    report = import_dataset(kind, src, tmp_path / "dst")
    label = open_dataset(tmp_path / "dst").samples[0].label
    if kind == "boundaries":
        assert report.n_crystals == pytest.approx(len(np.unique(truth)) - 1, rel=0.1)
        assert yaml.safe_load((tmp_path / "dst" / "dataset.yaml").read_text())["line_px"] in {1, 2, 3}
    else:
        assert same_crystals(label, truth)
