from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import ndimage
from skimage import measure

from crystalbench._exceptions import DataError, UnknownNameError
from crystalbench._files import file_sha256
from crystalbench.data import difficulty_class, open_dataset, read_image
from crystalbench.data._classes import crystal_lengths
from crystalbench.data._made import draw_micrograph, made_folder, made_names, make_dataset, read_recipe
from crystalbench.data._synthetic import (
    LINE_PX,
    MAX_CRYSTALS,
    MIN_LENGTH_PX,
    MicrographSpec,
    Population,
    _labels,
    _line_depths,
    draw_structure,
    make_micrograph,
)

MADE = 16
MAKE = """
import pathlib, sys
from crystalbench.data import make_dataset
make_dataset("demo", pathlib.Path(sys.argv[1]), images=int(sys.argv[2]))
"""

GIANTS_AND_TINY = (Population(2, 140, 0.3), Population(4, 60, 0.3), Population(40, 18, 0.3, 2))
SPECS = {
    "one crystal": MicrographSpec((Population(1, 100),)),
    "alike": MicrographSpec((Population(60, 40),)),
    "giants beside tiny": MicrographSpec(GIANTS_AND_TINY),
    "with a neighbour": MicrographSpec(GIANTS_AND_TINY, neighbours=2),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset("demo", tmp_path_factory.mktemp("made") / "demo", images=MADE)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_same_seed_gives_the_same_bits(spec: MicrographSpec) -> None:
    first, second = (make_micrograph(200, 230, np.random.default_rng([7, 3]), spec) for _ in range(2))
    other = make_micrograph(200, 230, np.random.default_rng([7, 4]), spec)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.label.tobytes() == second.label.tobytes()
    assert first.um_per_px == second.um_per_px
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_shapes_types_and_scale(spec: MicrographSpec, seed: int) -> None:
    made = make_micrograph(170, 240, np.random.default_rng(seed), spec)
    assert (made.image.shape, made.image.dtype) == ((170, 240, 3), np.uint8)
    assert (made.label.shape, made.label.dtype) == ((170, 240), np.int32)
    assert 1000 / 270 <= made.um_per_px <= 1000 / 170
    if spec.neighbours == 0:
        assert made.grain is None
    else:
        assert made.grain is not None
        assert (made.grain.shape, made.grain.dtype) == ((170, 240), np.bool_)
        assert not made.label[~made.grain].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_crystal_is_one_piece_long_enough_and_apart_from_the_others(spec: MicrographSpec, seed: int) -> None:
    label = draw_structure(260, 240, np.random.default_rng(seed), spec).label
    count = label.max()
    assert 1 <= count <= MAX_CRYSTALS
    assert np.array_equal(np.unique(label[label > 0]), np.arange(1, count + 1))
    assert measure.label(label, connectivity=1).max() == count
    assert crystal_lengths(label).min() >= MIN_LENGTH_PX
    for crystal in range(1, count + 1):
        distance = ndimage.distance_transform_edt(label != crystal)
        others = distance[(label > 0) & (label != crystal)]
        assert others.size == 0 or others.min() > LINE_PX - 1


@pytest.mark.parametrize("axis", [0, 1])
def test_line_between_two_crystals_is_five_pixels_wide_and_none_faces_the_resin(axis: int) -> None:
    cells = np.zeros((60, 60), np.int32)
    cells[10:50, 10:30] = 1
    cells[10:50, 30:50] = 2
    label = np.swapaxes(_labels(np.swapaxes(cells, 0, axis)), 0, axis)
    unlabelled = (label == 0) & (cells > 0)
    assert np.array_equal(unlabelled.sum(axis=1)[10:50], np.full(40, LINE_PX))
    assert label[10:50, 10].all()
    assert label[10:50, 49].all()
    assert set(np.unique(label)) == {0, 1, 2}


def test_lines_are_all_that_is_unlabelled_of_a_grain() -> None:
    lost = []
    for seed in range(6):
        structure = draw_structure(300, 300, np.random.default_rng(seed), SPECS["giants beside tiny"])
        distance = ndimage.distance_transform_edt(structure.label == 0)
        lost.append((structure.grain & (distance > LINE_PX)).mean())
    assert np.mean(lost) < 1e-3


def test_no_more_crystals_than_the_limit() -> None:
    crowd = MicrographSpec((Population(600, 16, 0.1),))
    label = draw_structure(400, 400, np.random.default_rng(0), crowd).label
    assert 100 < label.max() <= MAX_CRYSTALS


def test_crystals_of_one_colour_have_a_line_between_them() -> None:
    rng = np.random.default_rng(0)
    assert _line_depths(rng, np.zeros(500), depth=28.0).min() >= 16
    assert _line_depths(rng, np.full(500, 20.0), depth=28.0).min() < 4


def test_every_recipe_can_be_read() -> None:
    assert made_names() == ["demo", "refractory-like"]
    for name in made_names():
        recipe = read_recipe(name)
        assert recipe.name == name
        assert len(recipe.difficulties()) == recipe.images


def test_shares_of_the_classes_are_exact() -> None:
    assert Counter(read_recipe("demo").difficulties()) == {1: 30, 2: 40, 3: 30}
    assert Counter(read_recipe("refractory-like").difficulties()) == {1: 94, 2: 109, 3: 110}


def test_refractory_like_crystals_fall_in_the_class_asked_for() -> None:
    recipe = read_recipe("refractory-like")
    difficulties = recipe.difficulties()
    index = difficulties.index(1)
    made = draw_micrograph(recipe, index)
    assert difficulty_class(made.label, recipe.class_px) == 1


def test_made_set_is_what_its_recipe_says(made: Path) -> None:
    recipe, dataset = read_recipe("demo"), open_dataset(made)
    assert (dataset.name, dataset.made_by, dataset.version) == ("demo", "crystalbench/refractory", 1)
    assert (dataset.seed, dataset.line_px, dataset.class_px) == (recipe.seed, 5, 112)
    assert len(dataset.samples) == MADE
    assert list(dataset.classes().values()) == recipe.difficulties()[:MADE]
    for sample in dataset.samples:
        assert 1000 / 270 - 1e-3 <= sample.um_per_px <= 1000 / 170 + 1e-3
        assert min(sample.image.shape[:2]) >= 150
        assert max(sample.image.shape[:2]) <= 450


def test_files_hold_what_was_drawn(made: Path) -> None:
    recipe, samples = read_recipe("demo"), open_dataset(made).samples
    with_neighbours = next(sample for sample in samples if sample.grain is not None)
    for sample in (samples[0], with_neighbours):
        drawn = draw_micrograph(recipe, int(sample.name))
        assert (sample.grain is None) == (drawn.grain is None)
        assert np.array_equal(sample.label, drawn.label)
        assert np.array_equal(read_image(sample.image_path), drawn.image)
        assert sample.um_per_px == pytest.approx(drawn.um_per_px, abs=1e-4)


def test_split_knows_the_pixels_it_was_made_with(made: Path) -> None:
    split = open_dataset(made).split()
    assert len(split.samples) == MADE
    assert set(split.hashes) == {sample.name for sample in split.samples}
    assert split.changed == ()


def test_manifest_has_the_columns_of_a_data_set(made: Path) -> None:
    with (made / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{i:03d}.png" for i in range(MADE)]
    assert set(rows[0]) == {"image", "label", "group", "um_per_px"}


def test_complete_set_is_left_alone(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    reported: list[tuple[int, int]] = []
    make_dataset("demo", made, report=lambda done, total: reported.append((done, total)), images=3)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.png")} == before
    assert reported == []


def test_killed_make_goes_on_where_it_stood(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = subprocess.Popen([sys.executable, "-c", MAKE, os.fspath(folder), str(MADE)])
    while len(list((folder / "images").glob("0*.png"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=10)[1] == []
    there = {path: path.stat().st_mtime_ns for path in (folder / "images").glob("0*.png")}
    assert not (folder / "dataset.yaml").exists()

    reported: list[tuple[int, int]] = []
    make_dataset("demo", folder, report=lambda done, total: reported.append((done, total)), images=MADE)
    assert reported == [(done, MADE) for done in range(len(there) + 1, MADE + 1)]
    assert {path: path.stat().st_mtime_ns for path in there} == there
    for path in (*made.glob("*/*.png"), made / "manifest.csv", made / "dataset.yaml", made / "splits/fixed.json"):
        assert file_sha256(folder / path.relative_to(made)) == file_sha256(path)


def test_folder_of_another_set_is_refused(made: Path) -> None:
    with pytest.raises(DataError, match="holds another data set than refractory-like"):
        make_dataset("refractory-like", made, images=1)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'demo'"):
        make_dataset("demi")


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CRYSTALBENCH_DATA", os.fspath(tmp_path))
    assert made_folder("demo") == tmp_path / "demo-v1"
    monkeypatch.delenv("CRYSTALBENCH_DATA")
    assert made_folder("demo").parts[-2:] == ("datasets", "demo-v1")
    assert made_folder("demo") != Path("demo-v1")
