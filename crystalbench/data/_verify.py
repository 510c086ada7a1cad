"""Whether a data-set folder can be used, and whether its splits leak."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import label as connected_components

from crystalbench._exceptions import CrystalbenchError, DataError, SplitError
from crystalbench._files import sha256
from crystalbench.data._classes import as_int32, difficulty_class
from crystalbench.data._dataset import (
    DatasetFile,
    Layout,
    Row,
    check_shape,
    dataset_name,
    pairing_problems,
    pixel_hash,
    read_manifest,
    read_settings,
)
from crystalbench.data._images import IMAGE_SUFFIXES, LABEL_SUFFIXES, decode_image, read_grain, read_labels
from crystalbench.data._splits import read_split_or_folds, split_path, stratified_split

Kind = Literal["error", "warning"]

HASH_SIZE = 16
SAME_IMAGE_BITS = 24
"""Perceptual hashes (16 x 16 = 256 bits) that differ in at most so many bits are of nearly the same image.

Seen: copies as JPEG of quality 50, at half size, brighter, blurred by 1.5 px or with noise of 10 grey values differ
in up to 6 bits; distinct made micrographs in 54 and more, tiles of etched metal in 94; neighbouring serial sections
of one specimen in 38.
"""


@dataclass(frozen=True)
class Problem:
    """Something about a data set.

    Parameters
    ----------
    file
        What to look at.
    kind
        An error makes the data set unusable or unfair.
    message
        What is the matter, without the file's name.
    leak
        Whether it is a split that leaks, which makes a comparison unfair but not impossible.
    empty
        Whether it is a split that leaves a subset empty, which hinders only what trains and tests by it.
    """

    file: Path
    kind: Kind
    message: str
    leak: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.file} {self.message}"


_Conversions = dict[str, list[tuple[Path, str]]]
"""The images of each kind of conversion, and what is stated of each."""

_LARGEST_VALUE = re.compile(r"(largest value) \d+")


@dataclass(frozen=True)
class _Entry:
    """The files of one name."""

    name: str
    images: Sequence[Path]
    labels: Sequence[Path]
    grains: Sequence[Path]
    group: str


@dataclass(frozen=True)
class _Facts:
    """What the split checks need to know of one readable sample."""

    name: str
    group: str
    difficulty: int
    pixels: str
    image: str
    hashes: NDArray[np.bool_]


def verify_dataset(path: str | Path, report: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Name everything that is wrong with a data-set folder, all at once.

    Errors are files that cannot be read or used, missing partners, and leaks: an image, or nearly the same image
    (also mirrored or turned by 90 degrees), or a group in two subsets of a split. Crops and shifted copies are
    not recognised: give them one group. Warnings are conversions (a line for each kind, not each image), empty
    label maps, crystals in several pieces, unused files, and pixels that are not those a split was made with.

    Parameters
    ----------
    path
        The folder.
    report
        Called with the number of images done and of all.
    """
    layout = Layout.of(Path(path))
    missing = [folder for folder in (layout.images, layout.labels) if not folder.is_dir()]
    if missing:
        return [Problem(folder, "error", "does not exist: a data set has images/ and labels/") for folder in missing]
    settings, problems = _check_settings(layout)
    rows, found = _check_manifest(layout)
    problems += found
    problems += [Problem(file, "error", message) for file, message in pairing_problems(layout, rows)]
    problems += _unused(layout, rows)
    entries = _entries(layout, rows)
    facts = []
    conversions: _Conversions = defaultdict(list)
    for done, entry in enumerate(entries, start=1):
        fact, found = _check_entry(entry, settings.class_px, conversions)
        problems += found
        facts += [] if fact is None else [fact]
        if report is not None:
            report(done, len(entries))
    problems += _conversion_problems(conversions)
    return problems + _check_count(layout, settings, entries) + _check_splits(layout.root, entries, facts)


def _problem(file: Path, error: CrystalbenchError) -> Problem:
    return Problem(file, "error", str(error).removeprefix(str(file)).lstrip(" ,:"))


def _check_settings(layout: Layout) -> tuple[DatasetFile, list[Problem]]:
    settings = DatasetFile()
    try:
        settings = read_settings(layout.root)
        dataset_name(layout.root, settings)
    except CrystalbenchError as error:
        return settings, [_problem(layout.root / "dataset.yaml", error)]
    return settings, []


def _check_manifest(layout: Layout) -> tuple[list[Row] | None, list[Problem]]:
    try:
        return read_manifest(layout.root), []
    except DataError as error:
        return None, [_problem(layout.root / "manifest.csv", error)]


def _check_count(layout: Layout, settings: DatasetFile, entries: Sequence[_Entry]) -> list[Problem]:
    if settings.images in (None, len(entries)):
        return []
    message = f"says {settings.images} images but there are {len(entries)}"
    return [Problem(layout.root / "dataset.yaml", "warning", message)]


def _unused(layout: Layout, rows: Sequence[Row] | None) -> list[Problem]:
    problems = [
        *_unread(layout.images, IMAGE_SUFFIXES),
        *_unread(layout.labels, LABEL_SUFFIXES),
        *_unread(layout.root / "grains", LABEL_SUFFIXES),
    ]
    images = layout.image_files()
    for stem, paths in layout.grain_files().items():
        if stem not in images:
            problems.append(Problem(paths[0], "warning", "has no image"))
    if rows is not None:
        listed = {row.image for row in rows}
        for file in itertools.chain.from_iterable(images.values()):
            if file.name not in listed:
                problems.append(Problem(file, "warning", "is not in manifest.csv and is not used"))
    return problems


def _unread(folder: Path, suffixes: frozenset[str]) -> Iterator[Problem]:
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix.lower() not in suffixes and not file.name.startswith("."):
            yield Problem(file, "warning", f"is not used: only {' '.join(sorted(suffixes))} are read")


def _entries(layout: Layout, rows: Sequence[Row] | None) -> list[_Entry]:
    images, labels, grains = layout.image_files(), layout.label_files(), layout.grain_files()
    if rows is None:
        names = sorted(images.keys() | labels.keys())
        return [_Entry(n, images.get(n, []), labels.get(n, []), grains.get(n, []), n) for n in names]
    return [
        _Entry(
            name=row.name,
            images=_existing([layout.images / row.image]),
            labels=_existing([layout.labels / row.label]) if row.label else labels.get(row.name, []),
            grains=grains.get(row.name, []),
            group=row.group or row.name,
        )
        for row in sorted(rows, key=lambda row: row.name)
    ]


def _existing(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.is_file()]


def _check_entry(entry: _Entry, class_px: int, conversions: _Conversions) -> tuple[_Facts | None, list[Problem]]:
    images, problems = _check_images(entry, conversions)
    reference = entry.images[0] if images else None
    labels, found = _check_labels(entry, reference)
    grains, found_in_grains = _check_grains(entry, reference)
    problems += found + found_in_grains
    if not images or not labels or any(problem.kind == "error" for problem in problems):
        return None, problems
    image, label = images[0], labels[0]
    if grains:
        problems += _outside(entry, label, grains[0])
        image, label = np.where(grains[0][..., None], image, np.uint8(0)), np.where(grains[0], label, 0)
    return _facts(entry, image, label.astype(np.int32), class_px), problems


def _check_images(entry: _Entry, conversions: _Conversions) -> tuple[list[NDArray[np.uint8]], list[Problem]]:
    images, problems = [], []
    for file in entry.images:
        try:
            image, notes = decode_image(file)
        except DataError as error:
            problems.append(_problem(file, error))
            continue
        images.append(image)
        if notes:
            stated = ", ".join(notes)
            conversions[_LARGEST_VALUE.sub(r"\1", stated)].append((file, stated))
    return images, problems


def _conversion_problems(conversions: _Conversions) -> Iterator[Problem]:
    """Name each kind of conversion once: a set from one microscope has the same in every image."""
    for kind, found in conversions.items():
        file, stated = found[0]
        message = f"is converted: {stated}" if len(found) == 1 else f"and {len(found) - 1} more are converted: {kind}"
        yield Problem(file, "warning", message)


def _check_labels(entry: _Entry, image: Path | None) -> tuple[list[NDArray[np.int32]], list[Problem]]:
    labels, problems = [], []
    for file in entry.labels:
        try:
            label = as_int32(read_labels(file))
            if image is not None:
                check_shape(file, label.shape, image, DataError)
        except DataError as error:
            problems.append(_problem(file, error))
            continue
        labels.append(label)
        problems += _crystal_problems(file, label)
    return labels, problems


def _crystal_problems(file: Path, label: NDArray[np.int32]) -> list[Problem]:
    if not label.any():
        return [Problem(file, "warning", "holds no crystal: every pixel is 0")]
    pieces, n_pieces = connected_components(label, background=0, connectivity=2, return_num=True)
    owners = np.zeros(n_pieces + 1, np.int32)
    owners[pieces.ravel()] = label.ravel()
    n_split = np.count_nonzero(np.unique(owners[1:], return_counts=True)[1] > 1)
    if n_split == 0:
        return []
    return [Problem(file, "warning", f"has {n_split} crystals in several pieces ({n_pieces} pieces in all)")]


def _check_grains(entry: _Entry, image: Path | None) -> tuple[list[NDArray[np.bool_]], list[Problem]]:
    grains, problems = [], []
    for file in entry.grains:
        try:
            grain = read_grain(file)
            if image is not None:
                check_shape(file, grain.shape, image, DataError)
        except DataError as error:
            problems.append(_problem(file, error))
            continue
        grains.append(grain)
        problems += [] if grain.any() else [Problem(file, "error", "is empty: a grain mask is not 0 inside")]
    return grains, problems


def _outside(entry: _Entry, label: NDArray[np.int32], grain: NDArray[np.bool_]) -> list[Problem]:
    n_cut = np.count_nonzero(np.unique(label[~grain]))
    if n_cut == 0:
        return []
    return [Problem(entry.labels[0], "warning", f"has {n_cut} crystals that the grain mask cuts or removes")]


def _facts(entry: _Entry, image: NDArray[np.uint8], label: NDArray[np.int32], class_px: int) -> _Facts:
    return _Facts(
        name=entry.name,
        group=entry.group,
        difficulty=difficulty_class(label, class_px),
        pixels=pixel_hash(image, label),
        image=sha256(image.tobytes()),
        hashes=_orientation_hashes(image),
    )


def _orientation_hashes(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return 8 x 256 bits: the perceptual hash of each mirrored and turned copy, the image itself first."""
    side = 4 * HASH_SIZE
    small = np.asarray(Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.LANCZOS))
    copies = [np.rot90(copy, turns) for copy in (small, small.T) for turns in range(4)]
    hashes = [imagehash.phash(Image.fromarray(np.ascontiguousarray(c)), HASH_SIZE).hash.ravel() for c in copies]
    return np.array(hashes)


def _check_splits(root: Path, entries: Sequence[_Entry], facts: Sequence[_Facts]) -> list[Problem]:
    names = {file.stem for file in (root / "splits").glob("*.json") if not file.name.startswith(".")}
    alike = _alike(facts)
    problems = [] if "fixed" in names else _check_computed(root, entries, facts, alike)
    for name in sorted(names):
        problems += _check_split_file(root, name, entries, facts, alike)
    return problems


def _check_computed(
    root: Path, entries: Sequence[_Entry], facts: Sequence[_Facts], alike: Sequence[tuple[_Facts, _Facts]]
) -> list[Problem]:
    if len(facts) < len(entries):
        return []
    try:
        subsets = stratified_split({f.name: f.difficulty for f in facts}, {f.name: f.group for f in facts})
    except SplitError as error:
        return [Problem(root, "warning", f"has no split: {error}")]
    return _leaks(root, {name: (subset,) for name, subset in subsets.items()}, facts, alike)


def _check_split_file(
    root: Path,
    name: str,
    entries: Sequence[_Entry],
    facts: Sequence[_Facts],
    alike: Sequence[tuple[_Facts, _Facts]],
) -> list[Problem]:
    path = split_path(root, name)
    try:
        split = read_split_or_folds(root, name)
    except SplitError as error:
        return [_problem(path, error)]
    present = {entry.name for entry in entries if entry.images}
    recorded = {image: member.sha256 for image, member in split.images.items()}
    changed = [f.name for f in facts if recorded.get(f.name) not in (None, f.pixels)]
    return [
        *([Problem(path, "error", split.problem, empty=True)] if split.problem else []),
        *_listed(path, "error", "names images that are not there", sorted(recorded.keys() - present)),
        *_listed(path, "warning", "leaves out images, which are not used", sorted(present - recorded.keys())),
        *_listed(path, "warning", "was made with other pixels of", changed),
        *_leaks(path, split.held, facts, alike),
    ]


def _listed(path: Path, kind: Kind, message: str, names: Sequence[str]) -> list[Problem]:
    return [Problem(path, kind, f"{message}: {', '.join(names)}")] if names else []


def _leaks(
    path: Path,
    subsets: Mapping[str, tuple[str, ...]],
    facts: Sequence[_Facts],
    alike: Sequence[tuple[_Facts, _Facts]],
) -> list[Problem]:
    twice = [f"{name} ({' and '.join(held)})" for name, held in sorted(subsets.items()) if len(held) > 1]
    messages = [f"leaks: it has images in two subsets: {', '.join(twice)}"] if twice else []
    messages += [*_group_leaks(subsets, facts), *_image_leaks(subsets, alike)]
    return [Problem(path, "error", message, leak=True) for message in messages]


def _group_leaks(subsets: Mapping[str, tuple[str, ...]], facts: Sequence[_Facts]) -> Iterator[str]:
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for fact in facts:
        for subset in subsets.get(fact.name, ()):
            members[fact.group].setdefault(subset, fact.name)
    for group, examples in sorted(members.items()):
        if len(set(examples.values())) > 1:
            where = " and ".join(f"{subset} (as {name})" for subset, name in examples.items())
            yield f"leaks: group {group} is in {where}"


def _image_leaks(subsets: Mapping[str, tuple[str, ...]], alike: Sequence[tuple[_Facts, _Facts]]) -> Iterator[str]:
    for one, other in alike:
        here, there = subsets.get(one.name, ()), subsets.get(other.name, ())
        if here and there and len({*here, *there}) > 1:
            degree = "the same image" if one.image == other.image else "nearly the same image"
            yield f"leaks: {one.name} ({' and '.join(here)}) and {other.name} ({' and '.join(there)}) are {degree}"


def _alike(facts: Sequence[_Facts]) -> list[tuple[_Facts, _Facts]]:
    if not facts:
        return []
    signs = np.array([fact.hashes for fact in facts], np.float32) * 2 - 1
    n, n_orientations, bits = signs.shape
    products = signs.reshape(-1, bits) @ signs[:, 0].T
    differing = (bits - products.reshape(n, n_orientations, n).max(axis=1)) / 2
    pairs = zip(*np.nonzero(np.triu(differing <= SAME_IMAGE_BITS, k=1)), strict=True)
    return [(facts[i], facts[j]) for i, j in pairs]
