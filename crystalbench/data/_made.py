"""Data sets that the project makes itself: a recipe in ``configs/datasets``, a folder out."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
import yaml
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from crystalbench import _devices
from crystalbench._exceptions import DataError, UnknownNameError
from crystalbench._files import write_atomic
from crystalbench._paths import data_dir
from crystalbench.config import read_yaml
from crystalbench.data._classes import CLASSES, DifficultyClass, crystal_lengths, difficulty_class
from crystalbench.data._dataset import MADE_BY, read_settings
from crystalbench.data._images import write_image, write_labels
from crystalbench.data._splits import stratified_split, write_split
from crystalbench.data._synthetic import (
    MAX_CRYSTALS,
    Micrograph,
    MicrographSpec,
    Population,
    Structure,
    draw_structure,
    paint,
)

Populations = tuple[Population, ...]

_IMAGES_A_WORKER = 8
"""With fewer images than this a worker costs more to start than it saves."""


class Recipe(BaseModel):
    """A file ``configs/datasets/NAME.yaml``.

    ``side_px`` is the range of heights and widths, ``length_px`` that of crystal lengths, ``classes`` the share
    of each difficulty class at ``class_px``, ``neighbours`` the share of images with other grains beside the
    one of interest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    generator: Literal["refractory"]
    version: Literal[1]
    seed: int = Field(ge=0)
    images: int = Field(ge=1)
    side_px: tuple[int, int]
    length_px: tuple[int, int]
    classes: dict[DifficultyClass, float]
    neighbours: float = Field(ge=0, le=1)
    class_px: int = Field(gt=0)
    line_px: Literal[5]
    licence: str
    citation: str

    def difficulties(self) -> list[DifficultyClass]:
        """Return the difficulty class of each image: exact shares, in an order drawn from the seed."""
        total = sum(self.classes.values())
        ends = np.rint(np.cumsum([self.classes.get(c, 0.0) / total for c in CLASSES]) * self.images)
        ordered = np.repeat(CLASSES, np.diff(ends, prepend=0).astype(int))
        return [CLASSES[c - 1] for c in np.random.default_rng(self.seed).permutation(ordered)]


def made_names() -> list[str]:
    """Return the names of the data sets that :func:`make_dataset` can make."""
    return sorted(path.stem for path in (data_dir("configs") / "datasets").glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """Read the recipe of a made data set.

    Raises
    ------
    UnknownNameError
        Where no data set of that name is made.
    ConfigurationError
        Where its file is not a recipe.
    """
    if name not in made_names():
        raise UnknownNameError("made data set", name, made_names())
    return read_yaml(data_dir("configs") / "datasets" / f"{name}.yaml", Recipe)


def made_folder(name: str) -> Path:
    """Return where a made data set lies by default.

    It is ``NAME-v<version>`` below the environment variable ``CRYSTALBENCH_DATA``, or below the user's cache.

    Raises
    ------
    UnknownNameError
        Where no data set of that name is made.
    """
    cache = os.environ.get("CRYSTALBENCH_DATA") or platformdirs.user_cache_path("crystalbench") / "datasets"
    return Path(cache) / f"{name}-v{read_recipe(name).version}"


def make_dataset(
    name: str,
    folder: Path | None = None,
    report: Callable[[int, int], None] | None = None,
    images: int | None = None,
) -> Path:
    """Make a data set, or go on with one that was left half made, and return its folder.

    ``dataset.yaml`` is written last: a folder that has it is complete and left as it is. Several processes may
    ask for the same folder at once; one makes it, the others wait. More than a few images are made by a pool of
    spawned processes, so a script that calls this needs ``if __name__ == "__main__"``.

    Parameters
    ----------
    name
        One of :func:`made_names`.
    folder
        Where to; :func:`made_folder` by default.
    report
        Called with the number of images that are there and that there will be.
    images
        Make the first so many images alone.

    Raises
    ------
    UnknownNameError
        Where no data set of that name is made.
    DataError
        Where ``folder`` holds another data set.
    """
    recipe = read_recipe(name)
    folder = made_folder(name) if folder is None else folder
    count = recipe.images if images is None else min(images, recipe.images)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not _is_complete(folder, recipe, count):
            _make_images(folder, recipe, count, report)
            _write_index(folder, recipe, count)
    return folder


def _is_complete(folder: Path, recipe: Recipe, count: int) -> bool:
    if not (folder / "dataset.yaml").exists():
        return False
    found = read_settings(folder)
    if (found.name, found.version, found.seed) != (recipe.name, recipe.version, recipe.seed):
        raise DataError(f"{folder} holds another data set than {recipe.name}: give another folder")
    return (found.images or 0) >= count


def _stem(index: int) -> str:
    return f"{index:03d}"


def _make_images(folder: Path, recipe: Recipe, count: int, report: Callable[[int, int], None] | None) -> None:
    missing = [i for i in range(count) if not _image_path(folder, i).exists()]
    made = _each(partial(_make_image, folder, recipe), missing)
    for done, _ in enumerate(made, start=count - len(missing) + 1):
        if report is not None:
            report(done, count)


def _each(make: Callable[[int], None], indices: Sequence[int]) -> Iterator[None]:
    workers = min(_devices.cores(), len(indices) // _IMAGES_A_WORKER)
    if workers < 2:
        yield from map(make, indices)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_end_with_parent) as pool:
        for future in as_completed([pool.submit(make, i) for i in indices]):
            yield future.result()


def _end_with_parent() -> None:
    # A pool's processes outlive a parent that is killed: they wait for work for ever.
    threading.Thread(target=_exit_after, args=[multiprocessing.parent_process()], daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _make_image(folder: Path, recipe: Recipe, index: int) -> None:
    """Make one image. Its picture is written last: where it is, the label map is too."""
    made = draw_micrograph(recipe, index)
    write_labels(folder / "labels", _stem(index), made.label)
    if made.grain is not None:
        write_image(folder / "grains" / f"{_stem(index)}.png", made.grain.astype(np.uint8) * np.uint8(255))
    write_atomic(_image_path(folder, index), _png(made))


def _image_path(folder: Path, index: int) -> Path:
    return folder / "images" / f"{_stem(index)}.png"


def _png(made: Micrograph) -> bytes:
    """Encode the image; its resolution goes into the file, as a microscope's software would have it."""
    buffer = io.BytesIO()
    dots_per_inch = 25_400 / made.um_per_px
    Image.fromarray(made.image).save(buffer, "PNG", dpi=(dots_per_inch, dots_per_inch))
    return buffer.getvalue()


def _um_per_px(path: Path) -> float:
    with Image.open(path) as image:
        return round(1000 / round(float(image.info["dpi"][0]) / 25.4), 4)


def _write_index(folder: Path, recipe: Recipe, count: int) -> None:
    stems = [_stem(i) for i in range(count)]
    _write_manifest(folder, stems)
    for kept in (folder / "splits").glob("*-fold.json"):
        # Of fewer images, before the set grew.
        kept.unlink()
    classes = dict(zip(stems, recipe.difficulties(), strict=False))
    if count >= 3:
        assignment = stratified_split(classes, {stem: stem for stem in stems}, recipe.seed)
        write_split(folder, "fixed", assignment, version=recipe.version, seed=recipe.seed)
    settings = _settings(recipe) | {"images": count}
    write_atomic(folder / "dataset.yaml", yaml.safe_dump(settings, sort_keys=False).encode())


def _write_manifest(folder: Path, stems: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "group", "um_per_px"])
    for stem in stems:
        file = f"{stem}.png"
        writer.writerow([file, file, stem, _um_per_px(folder / "images" / file)])
    write_atomic(folder / "manifest.csv", text.getvalue().encode())


def _settings(recipe: Recipe) -> dict[str, Any]:
    shared = {"name", "title", "line_px", "class_px", "version", "seed", "licence", "citation"}
    made_by = f"{MADE_BY}{recipe.generator}"
    return recipe.model_dump(include=shared) | {"um_per_px": None, "made_by": made_by}


# What is drawn


def draw_micrograph(recipe: Recipe, index: int) -> Micrograph:
    """Make image ``index`` of a data set: structures are drawn until one falls in its difficulty class."""
    rng = np.random.default_rng([recipe.seed, index])
    difficulty = recipe.difficulties()[index]
    while True:
        structure = _draw_structure(recipe, difficulty, rng)
        if _fits(recipe, difficulty, structure.label):
            return paint(structure, rng)


def _draw_structure(recipe: Recipe, difficulty: DifficultyClass, rng: np.random.Generator) -> Structure:
    height, width = _draw_shape(recipe, difficulty, rng)
    neighbours = int(rng.integers(1, 3)) if rng.random() < recipe.neighbours else 0
    populations = _POPULATIONS[difficulty](rng, height, width, recipe.class_px)
    return draw_structure(height, width, rng, MicrographSpec(populations, neighbours))


def _fits(recipe: Recipe, difficulty: DifficultyClass, label: NDArray[np.int32]) -> bool:
    lengths = crystal_lengths(label)
    shortest, longest = recipe.length_px
    in_range = 1 <= len(lengths) <= MAX_CRYSTALS and lengths.min() >= shortest and lengths.max() <= longest
    return bool(in_range) and difficulty_class(label, recipe.class_px) == difficulty


def _draw_shape(recipe: Recipe, difficulty: DifficultyClass, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width in pixels; what does not fit the class is not tried."""
    low, high = recipe.side_px
    least = {1: low, 2: 1.8 * recipe.class_px, 3: 1.2 * recipe.class_px}[difficulty]
    most = {1: 4.5 * recipe.class_px, 2: high, 3: high}[difficulty]
    side = np.exp(rng.uniform(np.log(max(low, least)), np.log(min(high, most))))
    aspect = np.exp(rng.uniform(-0.3, 0.3, 2))
    height, width = np.clip(np.rint(side * aspect), low, high).astype(int)
    return int(height), int(width)


def _filling(height: int, width: int, diameter: float) -> int:
    """How many crystals of that diameter fill a grain."""
    return int(np.clip(0.8 * height * width / diameter**2, 1, MAX_CRYSTALS))


def _small_crystals(rng: np.random.Generator, height: int, width: int, class_px: int) -> Populations:
    """Class 1: all of about one size, sometimes with smaller ones between them."""
    diameter = class_px * np.exp(rng.uniform(np.log(0.18), np.log(0.5)))
    main = Population(_filling(height, width, diameter), diameter, rng.uniform(0.15, 0.5))
    if rng.random() < 0.5:
        return (main,)
    count = int(rng.integers(5, 40))
    return main, Population(count, rng.uniform(12, 0.25 * class_px), 0.3, int(rng.integers(0, 4)))


def _giants_beside_tiny(rng: np.random.Generator, height: int, width: int, class_px: int) -> Populations:
    """Class 2: a few giants, sometimes middling crystals, and clusters of tiny ones."""
    side = min(height, width)
    giants = int(rng.integers(1, 6))
    large = Population(giants, side * rng.uniform(0.5, 0.8) / np.sqrt(giants), 0.25)
    middling = Population(int(rng.integers(0, 10)), side * rng.uniform(0.1, 0.25), 0.3)
    tiny = np.exp(rng.uniform(np.log(13), np.log(max(26, 0.1 * class_px, 0.08 * side))))
    clusters = int(rng.integers(1, 5))
    return large, middling, Population(clusters * int(rng.integers(4, 35)), tiny, 0.3, clusters)


def _large_crystals(rng: np.random.Generator, height: int, width: int, class_px: int) -> Populations:
    """Class 3: one crystal, or several whose sizes differ less than tenfold."""
    side = min(height, width)
    if rng.random() < 0.15:
        return (Population(1, 0.5 * side),)
    diameter = max(side * np.exp(rng.uniform(np.log(0.12), np.log(0.5))), 0.35 * class_px)
    return (Population(_filling(height, width, diameter), diameter, rng.uniform(0.15, 0.45)),)


_POPULATIONS = {1: _small_crystals, 2: _giants_beside_tiny, 3: _large_crystals}
