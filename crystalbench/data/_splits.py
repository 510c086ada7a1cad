"""Which images train, validate and test."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from crystalbench._exceptions import SplitError
from crystalbench._files import write_json

if TYPE_CHECKING:
    from crystalbench.data._dataset import Sample

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")
FORM = '{"name": "fixed", "kind": "split", "version": 1, "images": {"STEM": {"subset": "train"}}}'
"""What a split file looks like; a subset is train, val or test."""


@dataclass(frozen=True)
class Split:
    """The samples of a data set that train, validate and test.

    Parameters
    ----------
    name
        ``fixed`` is the one that a data set has by default.
    train, val, test
        Samples by ascending name. None of them is empty.
    hashes
        For each name the sha256 of the pixels that the split was made with, where it is known.
    """

    name: str
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample that is used, once, by ascending name."""
        found = {sample.name: sample for sample in (*self.train, *self.val, *self.test)}
        return tuple(found[name] for name in sorted(found))

    @property
    def changed(self) -> tuple[str, ...]:
        """Names whose pixels are not those that the split was made with. Reads every image."""
        return tuple(s.name for s in self.samples if self.hashes.get(s.name) not in (None, s.pixel_hash))

    def subsets(self, name: str) -> tuple[Subset, ...]:
        """Return the subsets that hold ``name``: mostly one, several where an image is learnt by heart."""
        members = {"train": self.train, "val": self.val, "test": self.test}
        return tuple(s for s in SUBSETS if any(sample.name == name for sample in members[s]))


class _Member(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    subset: Subset | list[Subset]
    sha256: str | None = None

    @property
    def subsets(self) -> Sequence[Subset]:
        return [self.subset] if isinstance(self.subset, str) else self.subset


class SplitFile(BaseModel):
    """``splits/NAME.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["split"]
    version: int
    seed: int | None = None
    images: dict[str, _Member]


def stratified_split(
    classes: Mapping[str, int],
    groups: Mapping[str, str],
    seed: int = 0,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
) -> dict[str, Subset]:
    """Share images out over train, val and test by class, never a group over two of them.

    Shuffled groups, the largest first, go to the subset that lacks most images of their classes (Neubauer et
    al. 2024, "Dataset split"). The same arguments always give the same split.

    Parameters
    ----------
    classes
        The difficulty class of each image.
    groups
        The group of each image.
    seed
        Of the shuffling.
    shares
        Of train, val and test; they add up to 1.

    Raises
    ------
    SplitError
        Where there are fewer than three groups.
    """
    members = _members(groups)
    if len(members) < len(SUBSETS):
        raise SplitError(
            f"{len(members)} group(s) cannot be split into train, val and test: "
            "train on another data set with --train-data, or give the images finer groups in manifest.csv"
        )
    order = _shuffled(members, seed)
    lacking = _wanted(classes, shares)
    assignment: dict[str, Subset] = {}
    for position, group in enumerate(order):
        content = Counter(classes[name] for name in members[group])
        subset = _neediest(lacking, content, _open_subsets(assignment, len(order) - position))
        assignment.update(dict.fromkeys(members[group], subset))
        for difficulty, count in content.items():
            lacking[subset][difficulty] -= count
    return dict(sorted(assignment.items()))


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members = defaultdict(list)
    for name in sorted(groups):
        members[groups[name]].append(name)
    return dict(members)


def _shuffled(members: Mapping[str, list[str]], seed: int) -> list[str]:
    names = sorted(members)
    order = np.random.default_rng(seed).permutation(len(names))
    return sorted((names[i] for i in order), key=lambda group: -len(members[group]))


def _wanted(classes: Mapping[str, int], shares: Sequence[float]) -> dict[Subset, dict[int, float]]:
    totals = Counter(classes.values())
    return {s: {c: n * share for c, n in totals.items()} for s, share in zip(SUBSETS, shares, strict=True)}


def _open_subsets(assignment: Mapping[str, Subset], groups_left: int) -> Sequence[Subset]:
    empty = [subset for subset in SUBSETS if subset not in assignment.values()]
    return empty if groups_left <= len(empty) else SUBSETS


def _neediest(
    lacking: Mapping[Subset, Mapping[int, float]], content: Counter[int], subsets: Sequence[Subset]
) -> Subset:
    def need(subset: Subset) -> tuple[float, float]:
        of_classes = sum(n * lacking[subset][c] for c, n in content.items())
        return round(of_classes, 6), round(sum(lacking[subset].values()), 6)

    return max(subsets, key=need)


def split_path(folder: Path, name: str) -> Path:
    """Return the file of the split ``name``."""
    return folder / "splits" / f"{name}.json"


def read_split(folder: Path, name: str) -> SplitFile:
    """Read ``splits/NAME.json`` of the data set in ``folder``.

    Raises
    ------
    SplitError
        Where the file is missing or is not a split.
    """
    path = split_path(folder, name)
    try:
        return SplitFile.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise SplitError(f"{path} does not exist: the splits of this data set are {_names(folder)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SplitError(f"{path} is no split ({place}: {first['msg']}): give it the form {FORM}") from error
    except ValueError as error:
        raise SplitError(f"{path} is no JSON ({error}): give it the form {FORM}") from error


def _names(folder: Path) -> str:
    return ", ".join(sorted({path.stem for path in (folder / "splits").glob("*.json")} | {"fixed"}))


def write_split(
    folder: Path,
    name: str,
    assignment: Mapping[str, Subset | Sequence[Subset]],
    *,
    version: int = 1,
    seed: int | None = None,
) -> Path:
    """Write ``splits/NAME.json`` with the pixel hash of each image and return the file.

    Parameters
    ----------
    folder
        A data set with ``images/`` and ``labels/``.
    name
        Of the split.
    assignment
        For each image ``train``, ``val`` or ``test``, or several of them to learn images by heart.
    version, seed
        Of whatever made the assignment.

    Raises
    ------
    SplitError
        Where ``assignment`` names an image that is not there.
    """
    from crystalbench.data._dataset import find_samples

    samples = {sample.name: sample for sample in find_samples(folder)}
    check_names(split_path(folder, name), assignment, samples)
    images = {
        image: {
            "subset": subset if isinstance(subset, str) else list(subset),
            "sha256": samples[image].pixel_hash,
        }
        for image, subset in sorted(assignment.items())
    }
    path = split_path(folder, name)
    write_json(path, {"name": name, "kind": "split", "version": version, "seed": seed, "images": images})
    return path


def check_names(path: Path, named: Mapping[str, object], samples: Mapping[str, Sample]) -> None:
    """Raise SplitError where the split ``path`` names images that ``samples`` lacks."""
    missing = sorted(set(named) - set(samples))
    if missing:
        raise SplitError(
            f"{path} names images that are not in images/: {', '.join(missing)}; add them or mend the split"
        )


def resolve_split(folder: Path, name: str, samples: Sequence[Sample]) -> Split:
    """Return the split that ``splits/NAME.json`` gives for ``samples``; images it leaves out are unused.

    Raises
    ------
    SplitError
        Where it names images that are not there, or leaves a subset empty.
    """
    file = read_split(folder, name)
    path = split_path(folder, name)
    check_names(path, file.images, {sample.name: sample for sample in samples})
    subsets = {image: tuple(member.subsets) for image, member in file.images.items()}
    hashes = {image: member.sha256 for image, member in file.images.items() if member.sha256}
    return _split(str(path), name, samples, subsets, hashes)


def compute_split(name: str, samples: Sequence[Sample], classes: Mapping[str, int]) -> Split:
    """Return the stratified split of ``samples`` with seed 0.

    Raises
    ------
    SplitError
        Where there are fewer than three groups.
    """
    assignment = stratified_split(classes, {sample.name: sample.group for sample in samples})
    return _split(name, name, samples, {image: (subset,) for image, subset in assignment.items()}, {})


def without_images(held: Iterable[Sequence[Subset]]) -> str | None:
    """Say which of train, val and test no image is in, given the subsets of each image; None where there are none."""
    used = set(itertools.chain.from_iterable(held))
    empty = [subset for subset in SUBSETS if subset not in used]
    if not empty:
        return None
    return (
        f"leaves {' and '.join(empty)} empty: give each of train, val and test an image, "
        "or train on another data set with --train-data"
    )


def _split(
    origin: str,
    name: str,
    samples: Sequence[Sample],
    subsets: Mapping[str, tuple[Subset, ...]],
    hashes: Mapping[str, str],
) -> Split:
    if lacking := without_images(subsets.values()):
        raise SplitError(f"{origin} {lacking}")
    parts = {s: tuple(sample for sample in samples if s in subsets.get(sample.name, ())) for s in SUBSETS}
    return Split(name, parts["train"], parts["val"], parts["test"], hashes)
