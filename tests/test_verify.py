"""What verify names: bad files, all at once, and leaks."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SHARED
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from crystalbench._exceptions import DataError
from crystalbench.data._dataset import open_dataset
from crystalbench.data._images import write_image, write_labels
from crystalbench.data._splits import SUBSETS, Subset, write_folds, write_split
from crystalbench.data._verify import Problem, verify_dataset

DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not in {DATA}")

SPLIT: dict[str, Subset] = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test"}


def micrograph(seed: int, size: int = 64) -> NDArray[np.uint8]:
    """Noise that is smooth over a few pixels, so that it survives what a micrograph survives."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size, 3)), (2, 2, 0))
    return np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for seed, name in enumerate(SPLIT):
        write_image(root / "images" / f"{name}.png", micrograph(seed))
        label = np.zeros((64, 64), np.int64)
        label[5:20, 5:20], label[30:60, 30:60] = 1, 2
        write_labels(root / "labels", name, label)
    return root


def named(problems: list[Problem], kind: str, *parts: str) -> bool:
    return any(p.kind == kind and all(part in str(p) for part in parts) for p in problems)


def test_a_good_folder_has_no_problem(folder: Path) -> None:
    assert verify_dataset(folder) == []
    write_split(folder, "fixed", SPLIT)
    assert verify_dataset(folder) == []


def test_every_bad_file_is_named_at_once(folder: Path) -> None:
    images, labels = folder / "images", folder / "labels"
    for name in "fghijklmn":
        write_image(images / f"{name}.png", micrograph(ord(name)))
        write_labels(labels, name, np.ones((64, 64), np.int64))
    (images / "f.png").write_bytes((images / "f.png").read_bytes()[:900])
    write_labels(labels, "g", np.ones((64, 65), np.int64))
    (labels / "h.png").unlink()
    tifffile.imwrite(labels / "h.tif", np.ones((64, 64), np.float32))
    write_labels(labels, "i", np.zeros((64, 64), np.int64))
    write_image(labels / "j.png", micrograph(0))
    (images / "k.png").unlink()
    tifffile.imwrite(images / "k.tif", (micrograph(77).astype(np.uint16) * 16))
    write_image(images / "l.png", micrograph(88)[..., 0])
    (labels / "m.png").unlink()
    np.save(labels / "m.npy", np.full((64, 64), -1))
    (labels / "n.png").unlink()
    write_labels(labels, "orphan", np.ones((64, 64), np.int64))

    problems = verify_dataset(folder)
    assert named(problems, "error", "images/f.png", "cannot be read")
    assert named(problems, "error", "labels/g.png", "64 x 65")
    assert named(problems, "error", "labels/h.tif", "float32")
    assert named(problems, "warning", "labels/i.png", "no crystal")
    assert named(problems, "error", "labels/j.png", "(64, 64, 3)")
    assert named(problems, "warning", "images/k.tif", "16 bit")
    assert named(problems, "warning", "images/l.png", "grey")
    assert named(problems, "error", "labels/m.npy", "negative")
    assert named(problems, "error", "images/n.png", "no label map")
    assert named(problems, "error", "labels/orphan.png", "no image")
    assert len(problems) == 10
    assert not any(problem.leak for problem in problems)


@pytest.mark.parametrize("bad", ["f", "g", "h", "j"])
def test_a_sample_raises_what_verify_names(folder: Path, bad: str) -> None:
    write_image(folder / "images" / f"{bad}.png", micrograph(9))
    write_labels(folder / "labels", bad, np.ones((64, 64), np.int64))
    if bad == "f":
        (folder / "images" / "f.png").write_bytes((folder / "images" / "f.png").read_bytes()[:900])
    if bad == "g":
        write_labels(folder / "labels", "g", np.ones((64, 65), np.int64))
    if bad == "h":
        (folder / "labels" / "h.png").unlink()
        np.save(folder / "labels" / "h.npy", np.ones((64, 64)))
    if bad == "j":
        write_image(folder / "labels" / "j.png", micrograph(0))
    sample = next(sample for sample in open_dataset(folder).samples if sample.name == bad)
    with pytest.raises(DataError) as caught:
        _ = sample.image, sample.label
    (problem,) = verify_dataset(folder)
    assert str(problem.file) in str(caught.value)
    assert problem.message in str(caught.value)


def test_crystals_in_pieces_are_counted(folder: Path) -> None:
    label = np.zeros((64, 64), np.int64)
    label[2, 2] = label[9, 9] = label[3, 3] = 5
    label[20:30, 20:30] = 7
    write_labels(folder / "labels", "a", label)
    assert named(verify_dataset(folder), "warning", "labels/a.png", "1 crystals in several pieces (3 pieces in all)")


def test_grain_masks(folder: Path) -> None:
    inside = np.zeros((64, 64), np.uint8)
    inside[:40] = 255
    write_image(folder / "grains" / "a.png", inside)
    write_image(folder / "grains" / "b.png", inside * 0)
    write_image(folder / "grains" / "c.png", inside[:9])
    write_image(folder / "grains" / "ghost.png", inside)
    problems = verify_dataset(folder)
    assert named(problems, "warning", "labels/a.png", "1 crystals that the grain mask")
    assert named(problems, "error", "grains/b.png", "empty")
    assert named(problems, "error", "grains/c.png", "9 x 64")
    assert named(problems, "warning", "grains/ghost.png", "no image")


def test_unused_files_and_settings(folder: Path) -> None:
    (folder / "images" / "notes.txt").write_text("")
    (folder / "images" / ".hidden.png").write_text("")
    (folder / "manifest.csv").write_text("image\na.png\nb.png\nc.png\nd.png\n")
    (folder / "dataset.yaml").write_text("images: 9\n")
    problems = verify_dataset(folder)
    assert named(problems, "warning", "images/notes.txt", "not used")
    assert named(problems, "warning", "images/e.png", "not in manifest.csv")
    assert named(problems, "warning", "dataset.yaml", "9 images but there are 4")
    assert len(problems) == 3
    (folder / "dataset.yaml").write_text("clas_px: 9\n")
    (folder / "manifest.csv").write_text("image\n../a.png\n")
    problems = verify_dataset(folder)
    assert named(problems, "error", "dataset.yaml", "class_px")
    assert named(problems, "error", "manifest.csv", "line 2")


def test_each_kind_of_conversion_is_one_line(folder: Path) -> None:
    for seed, name in enumerate("abc"):
        write_image(folder / "images" / f"{name}.png", micrograph(seed)[..., 0])
    for seed, name in ((7, "d"), (8, "e")):
        (folder / "images" / f"{name}.png").unlink()
        tifffile.imwrite(folder / "images" / f"{name}.tif", micrograph(seed).astype(np.uint16) * seed)
    assert [f"{problem.file.name} {problem.message}" for problem in verify_dataset(folder)] == [
        "a.png and 2 more are converted: grey repeated to RGB",
        "d.tif and 1 more are converted: 16 bit scaled so that its largest value becomes 255",
    ]


@pytest.mark.parametrize("name", ["a/b", "a b", ".."])
def test_a_name_that_cannot_stand_in_a_path(folder: Path, name: str) -> None:
    (folder / "dataset.yaml").write_text(f"name: {name!r}\nclass_px: 20\n")
    (problem,) = verify_dataset(folder)
    assert named([problem], "error", "dataset.yaml", f"has the name {name!r}")


def test_a_manifest_in_another_encoding(folder: Path) -> None:
    (folder / "manifest.csv").write_text("image,group\na.png,Würfel\n", encoding="latin-1")
    assert named(verify_dataset(folder), "error", "manifest.csv is not UTF-8")


def test_no_folder(tmp_path: Path) -> None:
    assert named(verify_dataset(tmp_path / "none"), "error", "images")


def test_progress_is_reported(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify_dataset(folder, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(1, 6)]


class TestSplitFiles:
    def test_names_and_pixels(self, folder: Path) -> None:
        write_image(folder / "images" / "extra.png", micrograph(50))
        write_labels(folder / "labels", "extra", np.ones((64, 64), np.int64))
        write_split(folder, "mine", SPLIT)
        write_labels(folder / "labels", "b", np.ones((64, 64), np.int64))
        for sub in ("images", "labels"):
            (folder / sub / "e.png").unlink()
        problems = verify_dataset(folder)
        assert named(problems, "error", "splits/mine.json", "not there: e")
        assert named(problems, "warning", "splits/mine.json", "not used: extra")
        assert named(problems, "warning", "splits/mine.json", "other pixels of: b")
        assert len(problems) == 3

    def test_a_file_that_is_no_split(self, folder: Path) -> None:
        (folder / "splits").mkdir()
        (folder / "splits" / "mine.json").write_text("{")
        assert named(verify_dataset(folder), "error", "splits/mine.json", "JSON")

    @pytest.mark.parametrize("empty", ["train", "val", "test"])
    def test_an_empty_subset(self, folder: Path, empty: Subset) -> None:
        others = [subset for subset in SUBSETS if subset != empty]
        write_split(folder, "mine", dict(zip(SPLIT, itertools.cycle(others))))
        (problem,) = verify_dataset(folder)
        assert (problem.kind, problem.empty) == ("error", True)
        assert f"splits/mine.json leaves {empty} empty" in str(problem)

    def test_too_few_groups(self, folder: Path) -> None:
        (folder / "manifest.csv").write_text("image,group\n" + "".join(f"{name}.png,g\n" for name in SPLIT))
        assert named(verify_dataset(folder), "warning", "--train-data")

    def test_one_group_in_two_subsets(self, folder: Path) -> None:
        write_split(folder, "fixed", SPLIT)
        (folder / "manifest.csv").write_text("image,group\na.png,g\nb.png,g\nc.png,\nd.png,\ne.png,g\n")
        (problem,) = verify_dataset(folder)
        assert (problem.kind, problem.leak) == ("error", True)
        assert "group g is in train (as a) and test (as e)" in problem.message

    def test_one_image_in_several_subsets(self, folder: Path) -> None:
        write_split(folder, "heart", {"a": ["train", "val", "test"]})
        assert named(verify_dataset(folder), "error", "heart.json", "two subsets", "a (train and val and test)")

    def test_folds(self, folder: Path) -> None:
        assert verify_dataset(folder) == []
        (folder / "manifest.csv").write_text("image,group\na.png,one\nb.png,one\nc.png,\nd.png,\ne.png,\n")
        path = write_folds(folder, {"a": 1, "b": 2, "c": 3})
        problems = verify_dataset(folder)
        assert named(problems, "error", str(path), "group one is in fold 1 (as a) and fold 2 (as b)")
        assert named(problems, "warning", str(path), "leaves out images", "d, e")
        assert len(problems) == 2
        write_folds(folder, {"a": 1, "b": 1, "c": 3})
        assert named(verify_dataset(folder), "error", str(path), "leaves fold 2 empty")

    def test_the_same_pixels_in_another_format(self, folder: Path) -> None:
        Image.open(folder / "images" / "a.png").save(folder / "images" / "e.bmp")
        (folder / "images" / "e.png").unlink()
        write_split(folder, "fixed", SPLIT)
        (problem,) = verify_dataset(folder)
        assert (problem.kind, problem.file.name) == ("error", "fixed.json")
        assert "a (train) and e (test) are the same image" in problem.message

    def test_copies_inside_one_subset_are_no_leak(self, folder: Path) -> None:
        write_image(folder / "images" / "b.png", micrograph(0))
        write_split(folder, "fixed", SPLIT)
        assert verify_dataset(folder) == []


def jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.array(Image.open(buffer))


def noisy(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def half(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


CHANGES = {
    "jpeg": jpeg,
    "noisy": noisy,
    "half": half,
    "bright": lambda image: (image * 0.7 + 40).astype(np.uint8),
    "grey": lambda image: np.array(Image.fromarray(image).convert("L")),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned": np.rot90,
    "turned thrice": lambda image: np.rot90(image, 3),
    "transposed, jpeg": lambda image: jpeg(np.ascontiguousarray(image.transpose(1, 0, 2))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nearly_the_same_image_leaks(folder: Path, change: str) -> None:
    copy = np.ascontiguousarray(CHANGES[change](micrograph(0)))
    write_image(folder / "images" / "e.png", copy)
    write_labels(folder / "labels", "e", np.ones(copy.shape[:2], np.int64))
    write_split(folder, "fixed", SPLIT)
    problem = next(p for p in verify_dataset(folder) if p.kind == "error")
    assert "a (train) and e (test) are nearly the same image" in problem.message


def test_distinct_noise_is_not_alike(tmp_path: Path) -> None:
    for seed in range(60):
        write_image(tmp_path / "images" / f"{seed}.png", micrograph(seed))
        write_labels(tmp_path / "labels", str(seed), np.ones((64, 64), np.int64))
    assert verify_dataset(tmp_path) == []


@needs_shared
def test_tiles_of_the_real_sets_are_not_alike() -> None:
    for name in ("tbm", "imagegrains"):
        assert not [problem for problem in verify_dataset(DATA / name) if problem.kind == "error"]


@needs_shared
def test_copies_of_real_tiles_leak(tmp_path: Path) -> None:
    samples = open_dataset(DATA / "tbm").samples[:20]
    assignment: dict[str, Subset] = {}
    for sample, change in zip(samples, itertools.cycle(CHANGES)):
        copy = np.ascontiguousarray(CHANGES[change](sample.image))
        for name, image, subset in ((sample.name, sample.image, "train"), (f"{sample.name}x", copy, "test")):
            write_image(tmp_path / "images" / f"{name}.png", image)
            write_labels(tmp_path / "labels", name, np.ones(image.shape[:2], np.int64))
            assignment[name] = subset
    write_split(tmp_path, "fixed", assignment)
    leaks = [problem.message for problem in verify_dataset(tmp_path) if problem.leak]
    assert len(leaks) == 20
    assert all(any(f"{s.name} (train) and {s.name}x (test)" in leak for leak in leaks) for s in samples)
