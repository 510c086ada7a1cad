"""Which images train, validate and test: one split, or folds that take turns."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crystalbench._exceptions import SplitError
from crystalbench._files import write_json

if TYPE_CHECKING:
    from crystalbench.data._dataset import Dataset, Sample

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")
FORM = '{"name": "fixed", "kind": "split", "version": 1, "images": {"STEM": {"subset": "train"}}}'
"""What a split file looks like; a subset is train, val or test."""

FOLDS_FORM = '{"name": "5-fold", "kind": "folds", "version": 1, "images": {"STEM": {"fold": 1}}}'
"""What a file of folds looks like; they are counted from 1."""

FEWEST_FOLDS = len(SUBSETS)
"""One fold tests, one validates, the others train."""

_Part = TypeVar("_Part", Subset, int)


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


class Fold(NamedTuple):
    """One of the folds of a data set: ``number`` of 1 to ``folds``."""

    number: int
    folds: int

    def __str__(self) -> str:
        return f"fold {self.number} of {self.folds}"

    @property
    def split_name(self) -> str:
        """What all of the folds together are called."""
        return folds_name(self.folds)


@dataclass(frozen=True)
class Folds:
    """The samples of a data set in folds that test in turn, so that each is tested once.

    Parameters
    ----------
    name
        ``K-fold``, of K folds.
    folds
        The samples of each by ascending name. None of the folds is empty.
    hashes
        As of :class:`Split`.
    """

    name: str
    folds: tuple[tuple[Sample, ...], ...]
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def assignment(self) -> dict[str, int]:
        """The fold of each sample by name, counted from 1."""
        return {sample.name: number for number, fold in enumerate(self.folds, start=1) for sample in fold}

    def split(self, fold: int) -> Split:
        """Return what ``fold`` of 1 to K stands for: it tests, the next one validates, the others train.

        After the last comes the first.
        """
        validating = fold % len(self.folds) + 1
        numbered = list(enumerate(self.folds, start=1))
        training = [sample for number, found in numbered if number not in (fold, validating) for sample in found]
        train = tuple(sorted(training, key=lambda sample: sample.name))
        return Split(self.name, train, self.folds[validating - 1], self.folds[fold - 1], self.hashes)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Assignment(_Strict):
    name: str
    version: int
    seed: int | None = None


class _Member(_Strict):
    subset: Subset | list[Subset]
    sha256: str | None = None

    @property
    def subsets(self) -> Sequence[Subset]:
        return [self.subset] if isinstance(self.subset, str) else self.subset


class SplitFile(_Assignment):
    """``splits/NAME.json``."""

    kind: Literal["split"]
    images: dict[str, _Member]

    @property
    def held(self) -> dict[str, tuple[Subset, ...]]:
        """The subsets of each image."""
        return {image: tuple(member.subsets) for image, member in self.images.items()}

    @property
    def problem(self) -> str | None:
        """Why it cannot be used; None where it can."""
        return without_images(self.held.values())


class _FoldMember(_Strict):
    fold: int = Field(ge=1)
    sha256: str | None = None


class FoldsFile(_Assignment):
    """``splits/K-fold.json``."""

    kind: Literal["folds"]
    images: dict[str, _FoldMember]

    @property
    def held(self) -> dict[str, tuple[str, ...]]:
        """What holds each image, in words."""
        return {image: (f"fold {member.fold}",) for image, member in self.images.items()}

    @property
    def count(self) -> int:
        """How many folds there are."""
        return max((member.fold for member in self.images.values()), default=0)

    @property
    def problem(self) -> str | None:
        """Why it cannot be used; None where it can."""
        used = {member.fold for member in self.images.values()}
        empty = [str(fold) for fold in range(1, self.count + 1) if fold not in used]
        if empty:
            return f"leaves fold {' and '.join(empty)} empty: give each fold an image"
        if self.count < FEWEST_FOLDS:
            return f"holds {self.count} folds: there must be at least {FEWEST_FOLDS}, to train, validate and test"
        return None


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
    found = len(set(groups.values()))
    if found < len(SUBSETS):
        raise SplitError(
            f"{found} group(s) cannot be split into train, val and test: "
            "train on another data set with --train-data, or give the images finer groups in manifest.csv"
        )
    return _shared_out(classes, groups, dict(zip(SUBSETS, shares, strict=True)), seed)


def stratified_folds(
    classes: Mapping[str, int], groups: Mapping[str, str], count: int, seed: int = 0
) -> dict[str, int]:
    """Share images out over folds by class, never a group over two of them, as :func:`stratified_split` does.

    Parameters
    ----------
    classes, groups, seed
        As there.
    count
        How many folds, which are all to hold as many images of each class.

    Returns
    -------
    dict
        For each image its fold, from 1 to ``count``. No fold is empty.

    Raises
    ------
    SplitError
        For fewer than three folds, or fewer groups than folds.
    """
    if count < FEWEST_FOLDS:
        raise SplitError(f"{count} folds are too few: one tests, one validates, the others train")
    found = len(set(groups.values()))
    if found < count:
        raise SplitError(
            f"{len(groups)} images in {found} group(s) cannot make {count} folds: ask for at most {found}, "
            "or give the images finer groups in manifest.csv"
        )
    return _shared_out(classes, groups, dict.fromkeys(range(1, count + 1), 1 / count), seed)


def _shared_out(
    classes: Mapping[str, int], groups: Mapping[str, str], shares: Mapping[_Part, float], seed: int
) -> dict[str, _Part]:
    """Give shuffled groups, the largest first, to the part that lacks most images of their classes."""
    members = _members(groups)
    order = _shuffled(members, seed)
    lacking = _wanted(classes, shares)
    assignment: dict[str, _Part] = {}
    for position, group in enumerate(order):
        content = Counter(classes[name] for name in members[group])
        part = _neediest(lacking, content, _open_parts(shares, assignment, len(order) - position))
        assignment.update(dict.fromkeys(members[group], part))
        for difficulty, count in content.items():
            lacking[part][difficulty] -= count
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


def _wanted(classes: Mapping[str, int], shares: Mapping[_Part, float]) -> dict[_Part, dict[int, float]]:
    totals = Counter(classes.values())
    return {part: {c: n * share for c, n in totals.items()} for part, share in shares.items()}


def _open_parts(parts: Iterable[_Part], assignment: Mapping[str, _Part], groups_left: int) -> list[_Part]:
    empty = [part for part in parts if part not in assignment.values()]
    return empty if groups_left <= len(empty) else list(parts)


def _neediest(lacking: Mapping[_Part, Mapping[int, float]], content: Counter[int], parts: Iterable[_Part]) -> _Part:
    def need(part: _Part) -> tuple[float, float]:
        of_classes = sum(n * lacking[part][c] for c, n in content.items())
        return round(of_classes, 6), round(sum(lacking[part].values()), 6)

    return max(parts, key=need)


def split_path(folder: Path, name: str) -> Path:
    """Return the file of the split ``name``."""
    return folder / "splits" / f"{name}.json"


def folds_name(count: int) -> str:
    """Return what so many folds are called."""
    return f"{count}-fold"


def read_split(folder: Path, name: str) -> SplitFile:
    """Read ``splits/NAME.json`` of the data set in ``folder``.

    Raises
    ------
    SplitError
        Where the file is missing or is not a split.
    """
    path = split_path(folder, name)
    return _parsed(path, _content(path, FORM), SplitFile, FORM)


def read_split_or_folds(folder: Path, name: str) -> SplitFile | FoldsFile:
    """Read ``splits/NAME.json`` of either kind.

    Raises
    ------
    SplitError
        Where the file is missing or is neither.
    """
    path = split_path(folder, name)
    content = _content(path, FORM)
    if isinstance(content, dict) and content.get("kind") == "folds":
        return _parsed(path, content, FoldsFile, FOLDS_FORM)
    return _parsed(path, content, SplitFile, FORM)


_File = TypeVar("_File", SplitFile, FoldsFile)


def _content(path: Path, form: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SplitError(f"{path} does not exist: the splits of this data set are {_names(path.parent)}") from None
    except ValueError as error:
        raise SplitError(f"{path} is no JSON ({error}): give it the form {form}") from error


def _parsed(path: Path, content: Any, model: type[_File], form: str) -> _File:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SplitError(f"{path} is no split ({place}: {first['msg']}): give it the form {form}") from error


def _names(folder: Path) -> str:
    return ", ".join(sorted({path.stem for path in folder.glob("*.json")} | {"fixed"}))


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
    members = {
        image: {"subset": subset if isinstance(subset, str) else list(subset)} for image, subset in assignment.items()
    }
    return _write(folder, {"name": name, "kind": "split", "version": version, "seed": seed}, members)


def write_folds(folder: Path, assignment: Mapping[str, int], *, version: int = 1, seed: int | None = None) -> Path:
    """Write ``splits/K-fold.json`` with the pixel hash of each image and return the file.

    Parameters
    ----------
    folder
        A data set with ``images/`` and ``labels/``.
    assignment
        The fold of each image, from 1 to K.
    version, seed
        Of whatever made the assignment.

    Raises
    ------
    SplitError
        Where ``assignment`` names an image that is not there.
    """
    name = folds_name(max(assignment.values()))
    members = {image: {"fold": fold} for image, fold in assignment.items()}
    return _write(folder, {"name": name, "kind": "folds", "version": version, "seed": seed}, members)


def keep_folds(dataset: Dataset, count: int) -> Path | None:
    """Write folds down that are computed so far, so that no later version makes others; return their file.

    None where there is a file already.

    Raises
    ------
    SplitError
        As :func:`stratified_folds`.
    OSError
        Where the file cannot be written.
    """
    if split_path(dataset.root, folds_name(count)).exists():
        return None
    return write_folds(dataset.root, dataset.folds(count).assignment, seed=0)


def _write(folder: Path, about: Mapping[str, Any], members: Mapping[str, Mapping[str, object]]) -> Path:
    from crystalbench.data._dataset import find_samples

    path = split_path(folder, about["name"])
    samples = {sample.name: sample for sample in find_samples(folder)}
    check_names(path, members, samples)
    images = {image: {**member, "sha256": samples[image].pixel_hash} for image, member in sorted(members.items())}
    write_json(path, {**about, "images": images})
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
    return _split(str(path), name, samples, file.held, _hashes(file))


def _hashes(file: SplitFile | FoldsFile) -> dict[str, str]:
    return {image: member.sha256 for image, member in file.images.items() if member.sha256}


def resolve_folds(folder: Path, count: int, samples: Sequence[Sample]) -> Folds:
    """Return the folds that ``splits/K-fold.json`` gives for ``samples``; images it leaves out are unused.

    Raises
    ------
    SplitError
        Where it names images that are not there, leaves a fold empty, or holds another number of folds.
    """
    path = split_path(folder, folds_name(count))
    file = _parsed(path, _content(path, FOLDS_FORM), FoldsFile, FOLDS_FORM)
    check_names(path, file.images, {sample.name: sample for sample in samples})
    if file.problem:
        raise SplitError(f"{path} {file.problem}")
    if file.count != count:
        raise SplitError(f"{path} holds {file.count} folds, not {count}: call it {folds_name(file.count)}.json")
    return _folds(samples, {image: member.fold for image, member in file.images.items()}, _hashes(file))


def compute_folds(count: int, samples: Sequence[Sample], classes: Mapping[str, int]) -> Folds:
    """Return the stratified folds of ``samples`` with seed 0.

    Raises
    ------
    SplitError
        As :func:`stratified_folds`.
    """
    return _folds(samples, stratified_folds(classes, {sample.name: sample.group for sample in samples}, count), {})


def _folds(samples: Sequence[Sample], assignment: Mapping[str, int], hashes: Mapping[str, str]) -> Folds:
    count = max(assignment.values())
    folds = (tuple(s for s in samples if assignment.get(s.name) == number) for number in range(1, count + 1))
    return Folds(folds_name(count), tuple(folds), hashes)


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
