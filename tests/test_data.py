"""Reading and writing images and label maps, data-set folders, splits, classes, sheets."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crystalbench._exceptions import ConfigurationError, DataError, LabelError, SplitError, UnknownNameError
from crystalbench.data._classes import compact, crystal_lengths, difficulty_class
from crystalbench.data._contact_sheet import _shortened, _window, contact_sheet, describe
from crystalbench.data._dataset import open_dataset, safe_name
from crystalbench.data._images import (
    conversion,
    image_shape,
    read_grain,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from crystalbench.data._pictures import plain
from crystalbench.data._splits import (
    SUBSETS,
    FoldsFile,
    SplitFile,
    keep_folds,
    read_split,
    stratified_folds,
    stratified_split,
    write_folds,
    write_split,
)

DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not in {DATA}")


def noise(*shape: int, top: int = 256, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, top, shape)


def make_folder(root: Path, names: Iterable[str] = "abcdef", size: int = 24) -> Path:
    (root / "images").mkdir(parents=True)
    for seed, name in enumerate(names):
        write_image(root / "images" / f"{name}.png", noise(size, size, 3, seed=seed).astype(np.uint8))
        label = np.zeros((size, size), np.int64)
        label[1:9, 1:5], label[10:20, 10:20] = 1, 7
        write_labels(root / "labels", name, label)
    return root


RGB = noise(20, 30, 3).astype(np.uint8)
DEEP = noise(20, 30, 3, top=4096).astype(np.uint16)
GREY = np.repeat(RGB[..., :1], 3, axis=2)


class TestReadImage:
    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
    def test_rgb_is_unchanged(self, tmp_path: Path, suffix: str) -> None:
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), RGB)
        assert conversion(tmp_path / f"a.{suffix}") is None
        assert image_shape(tmp_path / f"a.{suffix}") == (20, 30)

    def test_jpeg(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - 90).max() <= 2

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
    def test_grey_is_repeated_and_alpha_dropped(self, tmp_path: Path, mode: str) -> None:
        channels = {"L": RGB[..., 0], "LA": RGB[..., :2], "RGBA": np.dstack([RGB, RGB[..., 1]])}[mode]
        Image.fromarray(channels).save(tmp_path / "a.png")
        assert np.array_equal(read_image(tmp_path / "a.png"), RGB if mode == "RGBA" else GREY)
        stated = conversion(tmp_path / "a.png") or ""
        assert ("grey" in stated) == (mode != "RGBA")
        assert ("alpha" in stated) == (mode != "L")

    def test_palette_and_one_bit(self, tmp_path: Path) -> None:
        indexed = Image.fromarray(RGB).quantize(16)
        indexed.save(tmp_path / "p.png")
        indexed.save(tmp_path / "p.tif")
        assert np.array_equal(read_image(tmp_path / "p.png"), np.asarray(indexed.convert("RGB")))
        assert np.array_equal(read_image(tmp_path / "p.tif"), np.asarray(indexed.convert("RGB")))
        Image.fromarray(RGB[..., 0] > 100).save(tmp_path / "b.png")
        assert np.array_equal(read_image(tmp_path / "b.png")[..., 1] == 255, RGB[..., 0] > 100)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize("grey", [False, True])
    def test_sixteen_bit_is_scaled_by_its_largest_value(self, tmp_path: Path, suffix: str, grey: bool) -> None:
        path = tmp_path / f"a.{suffix}"
        pixels = DEEP[..., 0].copy() if grey else DEEP
        if suffix == "png":
            path.write_bytes(imagecodecs.png_encode(pixels))
        else:
            tifffile.imwrite(path, pixels, compression="zlib")
        expected = np.rint(pixels * (255 / pixels.max())).astype(np.uint8)
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.max() == 255
        assert np.array_equal(image[..., 0] if grey else image, expected)
        assert str(pixels.max()) in (conversion(path) or "")

    def test_exif_orientation_is_not_applied_and_said(self, tmp_path: Path) -> None:
        image = Image.fromarray(RGB)
        exif = image.getexif()
        exif[274] = 6
        image.save(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg").shape == RGB.shape
        assert "orientation" in (conversion(tmp_path / "a.jpg") or "")

    def test_white_is_zero(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", RGB[..., 0], photometric="miniswhite")
        assert np.array_equal(read_image(tmp_path / "a.tif"), 255 - GREY)

    def test_larger_than_pillow_allows_by_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        write_image(tmp_path / "a.png", RGB)
        assert np.array_equal(read_image(tmp_path / "a.png"), RGB)
        assert Image.MAX_IMAGE_PIXELS == 100

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_too_large(self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("crystalbench.data._images.MAX_PIXELS", 599)
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
        with pytest.raises(DataError, match="megapixels"):
            read_image(tmp_path / f"a.{suffix}")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
    def test_truncated_never_gives_other_pixels(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(RGB).save(path)
        whole, pixels = path.read_bytes(), read_image(path)
        for length in range(0, len(whole), 37):
            path.write_bytes(whole[:length])
            with contextlib.suppress(DataError):
                assert np.array_equal(read_image(path), pixels)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=path.name):
            read_image(path)

    @pytest.mark.parametrize(
        ("pixels", "options", "said"),
        [
            (noise(3, 20, 30).astype(np.uint8), {"photometric": "minisblack"}, "3 pages"),
            (noise(3, 20, 30).astype(np.uint8), {"photometric": "rgb", "planarconfig": "separate"}, "channels"),
            (noise(20, 30).astype(np.float32), {}, "float32"),
            (noise(20, 30).astype(np.uint32), {}, "uint32"),
            (noise(20, 30, 4).astype(np.uint8), {"photometric": "separated"}, "SEPARATED"),
            (noise(20, 30, 6).astype(np.uint8), {"planarconfig": "contig"}, "shape"),
        ],
    )
    def test_tiff_that_is_no_micrograph(
        self, tmp_path: Path, pixels: NDArray[np.generic], options: dict[str, str], said: str
    ) -> None:
        tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
        with pytest.raises(DataError, match=rf"a\.tif.*{said}"):
            read_image(tmp_path / "a.tif")

    @pytest.mark.parametrize("name", ["missing.png", "text.png", "text.tif", "a.gif"])
    def test_no_image_at_all(self, tmp_path: Path, name: str) -> None:
        for text in ("text.png", "text.tif"):
            (tmp_path / text).write_text("not an image")
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


class TestLabels:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_png_keeps_its_type(self, tmp_path: Path, dtype: type[np.generic]) -> None:
        labels = noise(20, 30, top=200).astype(dtype)
        Image.fromarray(labels).save(tmp_path / "a.png")
        assert read_labels(tmp_path / "a.png").dtype == dtype
        assert np.array_equal(read_labels(tmp_path / "a.png"), labels)

    def test_palette_gives_indices(self, tmp_path: Path) -> None:
        indexed = Image.fromarray(RGB).quantize(16)
        indexed.save(tmp_path / "a.png")
        assert np.array_equal(read_labels(tmp_path / "a.png"), np.asarray(indexed))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
    @pytest.mark.parametrize("suffix", ["tif", "npy"])
    def test_any_integer(self, tmp_path: Path, dtype: type[np.generic], suffix: str) -> None:
        labels = noise(20, 30, top=99).astype(dtype)
        path = tmp_path / f"a.{suffix}"
        tifffile.imwrite(path, labels) if suffix == "tif" else np.save(path, labels)
        assert read_labels(path).dtype == dtype
        assert np.array_equal(read_labels(path), labels)

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (noise(9, 9) / 2, "float64"),
            (noise(9, 9, 3), r"\(9, 9, 3\)"),
            (noise(9, 9) - 20, "negative"),
            (np.array([["a"]]), "integers"),
        ],
    )
    def test_arrays_that_are_no_label_map(self, tmp_path: Path, array: NDArray[np.generic], said: str) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(LabelError, match=rf"a\.npy.*{said}"):
            read_labels(tmp_path / "a.npy")

    def test_three_channels_and_lossy_formats(self, tmp_path: Path) -> None:
        for name in ("a.png", "a.jpg"):
            Image.fromarray(RGB).save(tmp_path / name)
            with pytest.raises(LabelError, match=name):
                read_labels(tmp_path / name)

    def test_pickles_are_not_opened(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match=r"a\.npy"):
            read_labels(tmp_path / "a.npy")

    @pytest.mark.parametrize("length", [0, 5, 300])
    def test_truncated_npy(self, tmp_path: Path, length: int) -> None:
        np.save(tmp_path / "a.npy", noise(20, 30))
        (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:length])
        with pytest.raises(DataError, match=r"a\.npy"):
            read_labels(tmp_path / "a.npy")

    @pytest.mark.parametrize(("top", "name"), [(300, "x.png"), (2**16 - 1, "x.png"), (2**16, "x.tif")])
    def test_written_without_loss(self, tmp_path: Path, top: int, name: str) -> None:
        labels = noise(20, 30, top=top + 1)
        labels[0, 0] = top
        (tmp_path / "x.tif").touch()
        assert write_labels(tmp_path, "x", labels).name == name
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert np.array_equal(read_labels(tmp_path / name), labels)

    @pytest.mark.parametrize("value", [-1, 2**32])
    def test_unwritable(self, tmp_path: Path, value: int) -> None:
        with pytest.raises(LabelError, match="x"):
            write_labels(tmp_path, "x", np.full((2, 2), value))

    def test_grain_is_what_is_not_zero(self, tmp_path: Path) -> None:
        Image.fromarray((RGB[..., 0] > 99).astype(np.uint8) * 255).save(tmp_path / "a.png")
        assert np.array_equal(read_grain(tmp_path / "a.png"), RGB[..., 0] > 99)


class TestClasses:
    def test_length_is_the_longer_side_over_all_pieces(self) -> None:
        labels = np.zeros((50, 60), np.int64)
        labels[2:4, 5:15] = 9
        labels[10:40, 20:22] = 2**40
        labels[0, 0] = labels[0, 59] = 3
        assert crystal_lengths(labels).tolist() == [60, 10, 30]
        assert crystal_lengths(np.zeros((4, 4), np.uint8)).tolist() == []

    @given(st.lists(st.integers(0, 2**40), min_size=1, max_size=40))
    def test_compact_keeps_order(self, values: list[int]) -> None:
        labels = np.array(values).reshape(1, -1)
        renumbered = compact(labels)
        crystals = sorted(set(values) - {0})
        assert renumbered.tolist() == [[crystals.index(v) + 1 if v else 0 for v in values]]

    @pytest.mark.parametrize(
        ("lengths", "expected"),
        [([], 1), ([5, 111], 1), ([112], 3), ([11, 112], 2), ([12, 112], 3), ([12, 120], 3), ([30, 300], 3)],
    )
    def test_difficulty(self, lengths: list[int], expected: int) -> None:
        labels = np.zeros((300, 10), np.int32)
        for label, length in enumerate(lengths, start=1):
            labels[:length, 2 * label] = label
        assert difficulty_class(labels, 112) == expected


class TestOpenDataset:
    def test_the_smallest(self, tmp_path: Path) -> None:
        dataset = open_dataset(make_folder(tmp_path / "my set"))
        assert (dataset.name, dataset.line_px, dataset.class_px, dataset.um_per_px) == ("my-set", 0, 224, None)
        sample = dataset.samples[2]
        assert (sample.name, sample.group, sample.um_per_px, sample.grain) == ("c", "c", None, None)
        assert sample.image.shape == (24, 24, 3)
        assert sample.label.dtype == np.int32
        assert set(np.unique(sample.label)) == {0, 1, 7}
        assert sample.image.flags.writeable
        assert sample.label.flags.writeable

    def test_settings_and_manifest(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "ab")
        (root / "dataset.yaml").write_text("name: steel\num_per_px: 0.5\nline_px: 5\nclass_px: 112\nlicence: MIT\n")
        (root / "manifest.csv").write_text("image,group,um_per_px,width\na.png,g,0.25,24\nb.png,,,24\n")
        dataset = open_dataset(root)
        assert (dataset.name, dataset.line_px, dataset.class_px, dataset.licence) == ("steel", 5, 112, "MIT")
        assert [(s.group, s.um_per_px) for s in dataset.samples] == [("g", 0.25), ("b", 0.5)]

    def test_grain_zeroes_image_and_label(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        grain = np.zeros((24, 24), np.uint8)
        grain[:, :12] = 255
        (root / "grains").mkdir()
        Image.fromarray(grain).save(root / "grains" / "a.png")
        sample = open_dataset(root).samples[0]
        assert not sample.image[:, 12:].any()
        assert sample.image[:, :12].any()
        assert not sample.label[:, 12:].any()
        assert sample.label[12, 11] == 7

    def test_labels_over_32_bit_are_renumbered(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / "labels" / "a.png").unlink()
        labels = np.zeros((24, 24), np.int64)
        labels[0, :3] = 2**50, 5, 2**40
        np.save(root / "labels" / "a.npy", labels)
        assert open_dataset(root).samples[0].label[0, :4].tolist() == [3, 1, 2, 0]

    def test_another_shape_names_both_files(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        write_labels(root / "labels", "a", np.ones((24, 25), np.int64))
        with pytest.raises(LabelError, match=r"labels/a\.png is 24 x 25 .*images/a\.png is 24 x 24"):
            _ = open_dataset(root).samples[0].label

    def test_all_missing_partners_in_one_error(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abcd")
        (root / "images" / "a.png").unlink()
        (root / "labels" / "b.png").unlink()
        Image.fromarray(RGB).save(root / "images" / "c.bmp")
        with pytest.raises(DataError) as caught:
            open_dataset(root)
        for part in ("labels/a.png has no image", "images/b.png has no label", "c.png", "c.bmp"):
            assert part in str(caught.value)

    @pytest.mark.parametrize(
        ("manifest", "said"),
        [
            ("image\nz.png\n", "z.png"),
            ("image,label\na.png,q.png\n", "q.png"),
            ("image\na.png\na.png\n", "2 times"),
            ("image\n../a.png\n", "without folders"),
            ("image,um_per_px\na.png,-1\n", "line 2.*um_per_px"),
            ("image,um_per_px\na.png,wide\n", "um_per_px"),
            ("file\na.png\n", "header"),
            ("image\n", "lists no image"),
            ("", "header"),
            ("image,group\n,g\n", "line 2 names no image"),
            ("image,group\na.png,g\nb.png,top, left\n", r"manifest\.csv, line 3 has 3 cells, but the header has 2"),
            ("image,group\na.png\n\nb.png\n", "line 2 has 1 cells, line 4 has 1 cells"),
            ("image,um_per_px\na.png,0,5\n", "line 2 has 3 cells"),
            ("Image, image\na.png,a.png\n", "2 columns image"),
            ("image\n" + "a" * 200_000, r"manifest\.csv is no CSV"),
        ],
    )
    def test_manifests_that_are_wrong(self, tmp_path: Path, manifest: str, said: str) -> None:
        root = make_folder(tmp_path / "x", "ab")
        (root / "manifest.csv").write_text(manifest)
        with pytest.raises(DataError, match=said):
            open_dataset(root)

    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("header", ["image, label, group , um_per_px", "Image,LABEL,Group,Um_per_px"])
    def test_blanks_and_capitals_in_a_manifest_lose_no_column(self, tmp_path: Path, header: str, mark: str) -> None:
        root = make_folder(tmp_path / "x", "ab")
        write_labels(root / "labels", "other", np.ones((24, 24), np.int64))
        rows = ' a.png , other.png , "left, top" , 0.5\r\n,,,\r\nb.png,,,\r\n'
        (root / "manifest.csv").write_text(f"{mark}{header}\r\n{rows}", encoding="utf-8", newline="")
        a, b = open_dataset(root).samples
        assert (a.group, a.um_per_px, a.label_path.name) == ("left, top", 0.5, "other.png")
        assert (b.group, b.um_per_px, b.label_path.name) == ("b", None, "b.png")

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
    def test_a_manifest_that_is_not_utf8_says_so(self, tmp_path: Path, encoding: str) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / "manifest.csv").write_text("image,group\na.png,Würfel\n", encoding=encoding)
        with pytest.raises(DataError, match=r"manifest\.csv is not UTF-8 .*save it as CSV in UTF-8"):
            open_dataset(root)

    def test_unknown_key_names_the_nearest(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / "dataset.yaml").write_text("lin_px: 5\n")
        with pytest.raises(UnknownNameError, match=r"dataset\.yaml.*'lin_px'.*'line_px'"):
            open_dataset(root)

    @pytest.mark.parametrize(
        "text", ["class_px: 0", "um_per_px: -1", "um_per_px: .inf", "- 1", "a: [", "line_px: wide"]
    )
    def test_settings_that_are_wrong(self, tmp_path: Path, text: str) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / "dataset.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=r"dataset\.yaml"):
            open_dataset(root)

    @pytest.mark.parametrize("name", ["..", "a/b", "../x", "a b"])
    def test_names_that_leave_the_folder(self, tmp_path: Path, name: str) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / "dataset.yaml").write_text(f"name: {name!r}\n")
        with pytest.raises(DataError, match="name"):
            open_dataset(root)
        assert safe_name(name) == Path(safe_name(name)).name
        assert safe_name(name) not in {"", ".", ".."}

    @pytest.mark.parametrize("folder", ["images", "labels"])
    def test_no_data_set(self, tmp_path: Path, folder: str) -> None:
        root = make_folder(tmp_path / "x", "a")
        (root / folder).rename(root / "other")
        with pytest.raises(DataError, match=folder):
            open_dataset(root)

    def test_identity(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        dataset = open_dataset(root)
        assert dataset.identity(dataset.samples) == dataset.identity(dataset.samples[::-1])
        before = dataset.identity(dataset.samples)
        write_labels(root / "labels", "b", np.ones((24, 24), np.int64))
        changed = dataset.identity(dataset.samples)["images"]
        assert [name for name in "abc" if changed[name] != before["images"][name]] == ["b"]
        (root / "dataset.yaml").write_text("made_by: crystalbench/refractory\nversion: 1\nseed: 3\nimages: 3\n")
        made = open_dataset(root)
        assert made.identity(made.samples[:2]) == {
            "made_by": "crystalbench/refractory",
            "version": 1,
            "seed": 3,
            "images": ["a", "b"],
        }

    def test_a_maker_of_another_name_does_not_stand_for_the_pixels(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        (root / "dataset.yaml").write_text("made_by: our laboratory\nversion: 1\nseed: 3\n")
        before = open_dataset(root).identity(open_dataset(root).samples)
        write_labels(root / "labels", "b", np.ones((24, 24), np.int64))
        assert open_dataset(root).identity(open_dataset(root).samples) != before

    def test_pixel_hash_does_not_depend_on_the_format(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        before = open_dataset(root).samples[0]
        hashes = before.pixel_hash, before.hashes
        Image.open(root / "images" / "a.png").save(root / "images" / "a.bmp")
        (root / "images" / "a.png").unlink()
        after = open_dataset(root).samples[0]
        assert after.pixel_hash == hashes[0]
        assert after.hashes["image"] != hashes[1]["image"]


@st.composite
def grouped(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, str]]:
    n_groups = draw(st.integers(3, 12))
    members = st.lists(st.integers(1, 3), min_size=1, max_size=6)
    groups, classes = {}, {}
    for group in range(n_groups):
        for position, difficulty in enumerate(draw(members)):
            groups[f"{group}-{position}"] = str(group)
            classes[f"{group}-{position}"] = difficulty
    return classes, groups


class TestSplits:
    @settings(max_examples=60, deadline=None)
    @given(grouped(), st.integers(0, 5))
    def test_groups_stay_together_and_no_subset_is_empty(
        self, data: tuple[dict[str, int], dict[str, str]], seed: int
    ) -> None:
        classes, groups = data
        assignment = stratified_split(classes, groups, seed)
        assert assignment == stratified_split(dict(reversed(classes.items())), groups, seed)
        assert set(assignment) == set(classes)
        assert set(assignment.values()) == set(SUBSETS)
        assert len({(groups[name], subset) for name, subset in assignment.items()}) == len(set(groups.values()))

    def test_every_class_is_shared_out_60_20_20(self) -> None:
        classes = {f"{i:03}": 1 + i % 3 for i in range(300)}
        assignment = stratified_split(classes, {name: name for name in classes})
        counts = Counter((classes[name], subset) for name, subset in assignment.items())
        for difficulty in (1, 2, 3):
            assert [counts[difficulty, subset] for subset in SUBSETS] == [60, 20, 20]

    def test_the_seed_matters(self) -> None:
        classes = {str(i): 1 for i in range(30)}
        groups = {name: name for name in classes}
        assert stratified_split(classes, groups, 0) != stratified_split(classes, groups, 1)

    def test_fewer_than_three_groups(self) -> None:
        with pytest.raises(SplitError, match="--train-data"):
            stratified_split({"a": 1, "b": 1, "c": 1}, {"a": "x", "b": "x", "c": "y"})

    def test_computed_and_written_are_the_same(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x")
        computed = open_dataset(root).split()
        classes = open_dataset(root).classes()
        write_split(root, "fixed", stratified_split(classes, {n: n for n in classes}), version=1, seed=0)
        read = open_dataset(root).split()
        assert (read.train, read.val, read.test) == (computed.train, computed.val, computed.test)
        assert read.changed == computed.changed == ()
        file = read_split(root, "fixed")
        assert (file.name, file.kind, file.version, file.seed) == ("fixed", "split", 1, 0)

    def test_other_pixels_are_named(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        write_split(root, "fixed", {"a": "train", "b": "val", "c": "test"})
        write_labels(root / "labels", "b", np.ones((24, 24), np.int64))
        assert open_dataset(root).split().changed == ("b",)

    def test_one_image_in_several_subsets(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "ab")
        write_split(root, "heart", {"a": SUBSETS})
        split = open_dataset(root).split("heart")
        assert [s.name for s in (*split.train, *split.val, *split.test)] == ["a", "a", "a"]
        assert [s.name for s in split.samples] == ["a"]
        assert split.subsets("a") == SUBSETS
        assert split.subsets("b") == ()

    def test_names_that_are_not_there(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        with pytest.raises(SplitError, match="ghost"):
            write_split(root, "fixed", {"ghost": "train"})
        write_split(root, "fixed", {"a": "train", "b": "val", "c": "test"})
        (root / "images" / "b.png").unlink()
        (root / "labels" / "b.png").unlink()
        with pytest.raises(SplitError, match=r"fixed\.json.* b;"):
            open_dataset(root).split()

    def test_an_empty_subset(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        write_split(root, "fixed", {"a": "train", "b": "train", "c": "test"})
        with pytest.raises(SplitError, match="val"):
            open_dataset(root).split()

    def test_an_unknown_split_names_those_there(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        write_split(root, "mine", {"a": "train", "b": "val", "c": "test"})
        with pytest.raises(SplitError, match=r"their\.json.*fixed, mine"):
            open_dataset(root).split("their")

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"name": "x"}', json.dumps({"name": "x", "kind": "k", "version": 1, "images": {}})]
    )
    def test_files_that_are_no_split(self, tmp_path: Path, content: str) -> None:
        root = make_folder(tmp_path / "x", "abc")
        (root / "splits").mkdir()
        (root / "splits" / "fixed.json").write_text(content)
        with pytest.raises(SplitError, match=r"fixed\.json.*give it the form") as caught:
            open_dataset(root).split()
        form = str(caught.value).partition("give it the form ")[2]
        assert SplitFile.model_validate_json(form).images["STEM"].subset == "train"

    def test_the_split_of_the_docs_is_one(self, tmp_path: Path) -> None:
        page = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
        (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        root = make_folder(tmp_path / "x", ["grain-1", "grain-2", "grain-3"])
        (root / "splits").mkdir()
        (root / "splits" / "fixed.json").write_text(example)
        split = open_dataset(root).split()
        assert [split.subsets(f"grain-{number}") for number in (1, 2, 3)] == [("train",), ("val",), ("test",)]


class TestFolds:
    @settings(max_examples=60, deadline=None)
    @given(grouped(), st.integers(3, 12), st.integers(0, 5))
    def test_groups_stay_together_and_no_fold_is_empty(
        self, data: tuple[dict[str, int], dict[str, str]], count: int, seed: int
    ) -> None:
        classes, groups = data
        found = len(set(groups.values()))
        if found < count:
            with pytest.raises(SplitError, match=rf"{len(groups)} images in {found} group.*{count} folds.*manifest"):
                stratified_folds(classes, groups, count, seed)
            return
        assignment = stratified_folds(classes, groups, count, seed)
        assert assignment == stratified_folds(dict(reversed(classes.items())), groups, count, seed)
        assert set(assignment) == set(classes)
        assert set(assignment.values()) == set(range(1, count + 1))
        assert len({(groups[name], fold) for name, fold in assignment.items()}) == found

    def test_every_class_is_shared_out_evenly(self) -> None:
        classes = {f"{i:03}": 1 + i % 3 for i in range(147)}
        assignment = stratified_folds(classes, {name: name for name in classes}, 5)
        counts = Counter((classes[name], fold) for name, fold in assignment.items())
        assert set(counts.values()) == {9, 10}
        assert set(Counter(assignment.values()).values()) == {29, 30}

    def test_the_assignment_is_frozen(self) -> None:
        classes = {letter: 1 + position % 2 for position, letter in enumerate("abcdefghij")}
        groups = {name: {"b": "a", "c": "a", "i": "h"}.get(name, name) for name in classes}
        folds = stratified_folds(classes, groups, 4)
        assert "".join(str(folds[name]) for name in classes) == "1112334224"

    def test_a_fold_tests_and_the_next_one_validates(self, tmp_path: Path) -> None:
        dataset = open_dataset(make_folder(tmp_path / "x"))
        folds = dataset.folds(3)
        names = [{s.name for s in fold} for fold in folds.folds]
        for number, (test, val, train) in enumerate(((0, 1, 2), (1, 2, 0), (2, 0, 1)), start=1):
            split = folds.split(number)
            parts = ({s.name for s in part} for part in (split.test, split.val, split.train))
            assert list(parts) == [names[test], names[val], names[train]]
        assert set.union(*names) == {s.name for s in dataset.samples}

    def test_what_is_kept_stays(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x")
        computed = open_dataset(root).folds(3)
        assert keep_folds(open_dataset(root), 3) == root / "splits" / "3-fold.json"
        assert open_dataset(root).folds(3).folds == computed.folds
        assert set(open_dataset(root).folds(3).hashes) == set(computed.assignment)
        # Another class would now put it into another fold.
        write_labels(root / "labels", "a", np.ones((24, 24), np.int64))
        assert keep_folds(open_dataset(root), 3) is None
        kept = open_dataset(root).folds(3)
        assert kept.assignment == computed.assignment
        assert "a" in {name for fold in (1, 2, 3) for name in kept.split(fold).changed}

    def test_folds_by_hand(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abcd")
        write_folds(root, {"a": 3, "b": 1, "c": 2})
        assert open_dataset(root).folds(3).assignment == {"b": 1, "c": 2, "a": 3}

    @pytest.mark.parametrize(
        ("folds", "said"),
        [
            ({"a": 1, "b": 1, "c": 3}, "leaves fold 2 empty"),
            ({"a": 1, "b": 2, "c": 3, "d": 4}, "holds 4 folds, not 3: call it 4-fold.json"),
            ({"a": 1, "b": 2}, "holds 2 folds: there must be at least 3"),
            ({"a": 0, "b": 1, "c": 2}, r"images\.a\.fold"),
            ({"a": 1, "b": 2, "ghost": 3}, "ghost"),
        ],
    )
    def test_files_that_do_not_fit(self, tmp_path: Path, folds: dict[str, int], said: str) -> None:
        root = make_folder(tmp_path / "x", "abcd")
        images = {name: {"fold": fold} for name, fold in folds.items()}
        content = {"name": "3-fold", "kind": "folds", "version": 1, "images": images}
        (root / "splits").mkdir()
        (root / "splits" / "3-fold.json").write_text(json.dumps(content))
        with pytest.raises(SplitError, match=rf"3-fold\.json.*{said}"):
            open_dataset(root).folds(3)

    def test_a_file_of_the_other_kind_names_the_form(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "abc")
        write_split(root, "3-fold", {"a": "train", "b": "val", "c": "test"})
        with pytest.raises(SplitError, match=r"3-fold\.json.*give it the form") as caught:
            open_dataset(root).folds(3)
        form = str(caught.value).partition("give it the form ")[2]
        assert FoldsFile.model_validate_json(form).images["STEM"].fold == 1

    def test_two_folds_are_too_few(self, tmp_path: Path) -> None:
        with pytest.raises(SplitError, match="2 folds are too few"):
            open_dataset(make_folder(tmp_path / "x")).folds(2)


def outline_share(picture: NDArray[np.uint8]) -> float:
    return float((picture == (255, 220, 0)).all(axis=2).mean())


class TestSheet:
    def test_describe(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x")
        (root / "dataset.yaml").write_text("class_px: 10\n")
        summary = describe(open_dataset(root))
        assert (summary["images"], summary["crystals"], summary["groups"]) == (6, 12, 6)
        assert summary["classes"] == {"1": 0, "2": 0, "3": 6}
        assert summary["crystal_length_px"] == {"min": 8.0, "median": 9.0, "max": 10.0}
        assert [summary["subsets"][subset]["images"] for subset in SUBSETS] == [4, 1, 1]
        assert json.loads(json.dumps(summary)) == summary

    def test_without_crystals_or_groups(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "x", "a")
        write_labels(root / "labels", "a", np.zeros((24, 24), np.int64))
        summary = describe(open_dataset(root))
        assert summary["subsets"] == {}
        assert summary["crystal_length_px"]["median"] is None
        assert contact_sheet(open_dataset(root), tmp_path / "sheet.png").is_file()

    def test_outlines_and_size(self, tmp_path: Path) -> None:
        dataset = open_dataset(make_folder(tmp_path / "x"))
        sheet = read_image(contact_sheet(dataset, tmp_path / "out" / "sheet.png"))
        one = read_image(contact_sheet(dataset, tmp_path / "one.png", limit=1))
        assert sheet.shape[1] > 2 * one.shape[1]
        assert outline_share(one) > 0.005

    def test_crystals_of_a_large_image_can_be_seen(self, tmp_path: Path) -> None:
        root = tmp_path / "x"
        checks = np.kron(np.arange(1, 60 * 40 + 1).reshape(40, 60), np.ones((50, 50), np.int64))
        checks[::50] = checks[:, ::50] = 0
        checks[:, :1500] = 0
        write_image(root / "images" / "large.png", np.full((*checks.shape, 3), 90, np.uint8))
        write_labels(root / "labels", "large", checks)
        tile = read_image(contact_sheet(open_dataset(root), tmp_path / "sheet.png"))[8:248, 8:248]
        # Squares of 49 px every 50 px: at 14 px a square, outlines are near a quarter, and nothing else is in sight.
        assert 0.15 < outline_share(tile) < 0.35
        assert outline_share(tile[:, :20]) > 0.1

    def test_the_window_is_whole_where_crystals_are_large(self) -> None:
        label = np.zeros((3000, 4000), np.int32)
        assert label[_window(label)].shape == label.shape
        label[0:400, 0:400] = 1
        assert label[_window(label)].shape == label.shape
        label[0:400, 0:400] = 0
        label[2990:, 3990:] = 1
        assert label[_window(label)].shape == (240, 240)
        assert label[_window(label)].sum() == 100

    @given(st.text())
    def test_captions_are_ascii_whatever_the_name(self, name: str) -> None:
        assert plain(name).isascii()
        assert plain("Probe_ü_500µm, Проба") == "Probe_u_500um, Proba"

    def test_a_long_name_leaves_room_for_size_and_subset(self) -> None:
        draw, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), ImageFont.load_default(12)
        short = _shortened(draw, "a" * 300, ", 99 x 99 px, train", font)
        assert short.startswith("aaa")
        assert short.endswith("a..., 99 x 99 px, train")
        assert draw.textlength(short, font=font) <= 240
        assert _shortened(draw, "abc", "b" * 300, font).startswith("...b")


@needs_shared
@pytest.mark.parametrize(
    ("name", "pairs", "crystals"), [("tbm", 80, 4564), ("ffc_iron", 5, 910), ("imagegrains", 7, 948)]
)
def test_real_sets(name: str, pairs: int, crystals: int) -> None:
    summary = describe(open_dataset(DATA / name))
    assert (summary["images"], summary["crystals"]) == (pairs, crystals)


@needs_shared
def test_real_sets_split_by_group() -> None:
    split = open_dataset(DATA / "tbm").split()
    held = [{sample.group for sample in part} for part in (split.train, split.val, split.test)]
    assert len(set.union(*held)) == sum(map(len, held)) == 21
    with pytest.raises(SplitError, match="--train-data"):
        open_dataset(DATA / "ffc_iron").split()
