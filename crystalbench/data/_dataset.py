"""Data-set folders."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from crystalbench._exceptions import DataError, LabelError
from crystalbench._files import file_sha256
from crystalbench.config import read_yaml
from crystalbench.data._classes import DifficultyClass, as_int32, difficulty_class
from crystalbench.data._images import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    files_by_stem,
    image_shape,
    read_grain,
    read_image,
    read_labels,
)
from crystalbench.data._splits import (
    Fold,
    Folds,
    Split,
    compute_folds,
    compute_split,
    folds_name,
    resolve_folds,
    resolve_split,
    split_path,
)

MADE_BY = "crystalbench/"
"""What ``made_by`` begins with in the sets that the project makes itself; the generator's name follows."""

_COLUMNS = ("image", "label", "group", "um_per_px")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Sample:
    """A micrograph and its label map. Pixels are read from the files each time they are asked for.

    Parameters
    ----------
    name
        The image's file name without its suffix.
    image_path, label_path, grain_path
        Files; without a grain mask the whole image counts.
    group
        Samples of one group are never in two subsets of a split.
    um_per_px
        Micrometres a pixel, where known.
    """

    name: str
    image_path: Path
    label_path: Path
    grain_path: Path | None
    group: str
    um_per_px: float | None

    @property
    def image(self) -> NDArray[np.uint8]:
        """H x W x 3, RGB; 0 outside the grain.

        Raises
        ------
        DataError
            Where the image or the grain mask cannot be read, or their shapes differ.
        """
        return read_micrograph(self.image_path, self.grain_path)

    @property
    def label(self) -> NDArray[np.int32]:
        """H x W; 0 is background and everything outside the grain.

        Labels that do not fit 32 bit are renumbered in their order.

        Raises
        ------
        LabelError
            Where the file is no label map, or not of the image's shape.
        """
        labels = read_labels(self.label_path)
        check_shape(self.label_path, labels.shape, self.image_path, LabelError)
        label = as_int32(labels)
        grain = self.grain
        return label if grain is None else np.where(grain, label, np.int32(0))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, from the image's header.

        Raises
        ------
        DataError
            Where the header cannot be read.
        """
        return image_shape(self.image_path)

    @property
    def grain(self) -> NDArray[np.bool_] | None:
        """H x W, true inside the grain of interest; None where the whole image counts.

        Raises
        ------
        DataError
            Where the mask cannot be read or is not of the image's shape.
        """
        return _grain_of(self.image_path, self.grain_path)

    @property
    def hashes(self) -> dict[str, str | None]:
        """The sha256 of each file: ``image``, ``label`` and ``grain`` (None where there is no mask)."""
        return {
            "image": _hash(self.image_path),
            "label": _hash(self.label_path),
            "grain": None if self.grain_path is None else _hash(self.grain_path),
        }

    @property
    def pixel_hash(self) -> str:
        """The sha256 of the decoded pixels of image and label, whatever the file formats."""
        return pixel_hash(self.image, self.label)


def _hash(path: Path) -> str:
    stat = path.stat()
    return _hash_of(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@cache
def _hash_of(path: Path, *_unchanged: int) -> str:
    """Return the sha256 of a file, which a plan asks for several times, as long as the system says it is the same."""
    return file_sha256(path)


def read_micrograph(path: Path, grain_path: Path | None) -> NDArray[np.uint8]:
    """Read the image ``path`` as H x W x 3, RGB; 0 outside of the grain mask, where there is one.

    Raises
    ------
    DataError
        As :attr:`Sample.image`.
    """
    image = read_image(path)
    grain = _grain_of(path, grain_path)
    if grain is not None:
        image[~grain] = 0
    return image


def _grain_of(path: Path, grain_path: Path | None) -> NDArray[np.bool_] | None:
    if grain_path is None:
        return None
    grain = read_grain(grain_path)
    check_shape(grain_path, grain.shape, path, DataError)
    return grain


def pixel_hash(image: NDArray[np.uint8], label: NDArray[np.int32]) -> str:
    """Return the sha256 of ``image`` (H x W x 3) and ``label`` (H x W)."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.ascontiguousarray(label, "<i4").data)
    return digest.hexdigest()


def check_shape(path: Path, shape: tuple[int, ...], image_path: Path, error: type[DataError]) -> None:
    """Raise ``error`` where ``shape``, that of ``path``, is not the image's."""
    expected = image_shape(image_path)
    if shape != expected:
        raise error(
            f"{path} is {shape[0]} x {shape[1]} but its image {image_path} is {expected[0]} x {expected[1]}: "
            "save both with the same height and width"
        )


class DatasetFile(BaseModel):
    """``dataset.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    title: str | None = None
    um_per_px: float | None = Field(None, gt=0, allow_inf_nan=False)
    line_px: int = Field(0, ge=0)
    class_px: int = Field(224, gt=0)
    made_by: str | None = None
    version: int | None = None
    seed: int | None = None
    images: int | None = None
    citation: str | None = None
    licence: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether our own generator made it: what others write into ``made_by`` says nothing about pixels."""
        return _is_made(self.made_by, self.version, self.seed)


def _is_made(made_by: str | None, version: int | None, seed: int | None) -> bool:
    return (made_by or "").startswith(MADE_BY) and None not in (version, seed)


@dataclass(frozen=True)
class Dataset:
    """A folder of micrographs with label maps.

    Parameters
    ----------
    root
        The folder.
    name, title
        ``name`` can stand in a path; ``title`` is for people.
    um_per_px
        Micrometres a pixel; a sample's own value goes before it.
    line_px
        Width in pixels of the unlabelled line between touching crystals.
    class_px
        Crystal length in pixels from which on an image is not of difficulty class 1.
    samples
        By ascending name.
    made_by, version, seed
        The generator of a made set.
    licence, citation
        As ``dataset.yaml`` has them.
    """

    root: Path
    name: str
    title: str
    um_per_px: float | None
    line_px: int
    class_px: int
    samples: tuple[Sample, ...]
    made_by: str | None = None
    version: int | None = None
    seed: int | None = None
    licence: str | None = None
    citation: str | None = None

    def split(self, name: str | Fold = "fixed") -> Split:
        """Return a split: that of ``splits/NAME.json``, or a stratified one where ``fixed`` has no file.

        That of a fold is one of :meth:`folds`.

        Raises
        ------
        SplitError
            Where the file does not fit the images, or there are fewer than three groups to split.
        """
        if isinstance(name, Fold):
            return self.folds(name.folds).split(name.number)
        if name == "fixed" and not split_path(self.root, name).exists():
            return compute_split(name, self.samples, self.classes())
        return resolve_split(self.root, name, self.samples)

    def folds(self, count: int) -> Folds:
        """Return folds that test in turn: those of ``splits/K-fold.json``, or stratified ones where it has no file.

        Raises
        ------
        SplitError
            Where the file does not fit the images, for fewer than three folds, or fewer groups than folds.
        """
        if not split_path(self.root, folds_name(count)).exists():
            return compute_folds(count, self.samples, self.classes())
        return resolve_folds(self.root, count, self.samples)

    def difficulty(self, sample: Sample) -> DifficultyClass:
        """Return the difficulty class of ``sample``; see :func:`~crystalbench.data.difficulty_class`."""
        return difficulty_class(sample.label, self.class_px)

    def classes(self) -> dict[str, DifficultyClass]:
        """Return the difficulty class of each sample by name. Reads every label map."""
        return {sample.name: self.difficulty(sample) for sample in self.samples}

    @property
    def is_made(self) -> bool:
        """Whether our own generator made it: what others write into ``made_by`` says nothing about pixels."""
        return _is_made(self.made_by, self.version, self.seed)

    def identity(self, samples: Iterable[Sample]) -> dict[str, Any]:
        """Say which pixels ``samples`` are: made ones by generator and seed, others by file hashes."""
        chosen = sorted(samples, key=lambda sample: sample.name)
        if not self.is_made:
            return {"images": {sample.name: sample.hashes for sample in chosen}}
        origin = {"made_by": self.made_by, "version": self.version, "seed": self.seed}
        return {**origin, "images": [sample.name for sample in chosen]}


def open_dataset(path: str | Path) -> Dataset:
    """Open a data-set folder.

    It has ``images/`` and ``labels/`` with files of the same stems, and may have ``grains/``,
    ``dataset.yaml``, ``manifest.csv`` and ``splits/``. Pixels are not read.

    Raises
    ------
    DataError
        Where the folder is no data set; all images and labels without a partner are named at once.
    UnknownNameError
        Where ``dataset.yaml`` has a key that does not exist.
    """
    root = Path(path)
    settings = read_settings(root)
    samples = find_samples(root, settings.um_per_px)
    name = dataset_name(root, settings)
    kept = settings.model_dump(exclude={"name", "title", "images"})
    return Dataset(root=root, name=name, title=settings.title or name, samples=samples, **kept)


def dataset_name(root: Path, settings: DatasetFile) -> str:
    """Return the name in ``settings``, those of the data set in ``root``, or one made from the folder's.

    Raises
    ------
    DataError
        Where it cannot stand in a path.
    """
    name = settings.name or safe_name(root.resolve().name)
    if name != (allowed := safe_name(name)):
        raise DataError(f"{root / 'dataset.yaml'} has the name {name!r}: call it {allowed!r}, as it names folders")
    return name


def safe_name(name: str) -> str:
    """Return ``name`` as one that can stand in a path on every system."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "dataset"


def read_settings(root: Path) -> DatasetFile:
    """Read ``dataset.yaml`` of the folder ``root``; without the file, the defaults.

    Raises
    ------
    UnknownNameError
        Where it has a key that does not exist.
    ConfigurationError
        Where a value is not what it must be.
    """
    path = root / "dataset.yaml"
    if not path.exists():
        return DatasetFile()
    return read_yaml(path, DatasetFile)


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set are.

    Parameters
    ----------
    root
        Holds ``manifest.csv`` and ``grains/``, where there are any.
    images, labels
        Folders of files of the same stems.
    suffixes
        Of the files in ``labels``.
    """

    root: Path
    images: Path
    labels: Path
    suffixes: frozenset[str] = LABEL_SUFFIXES

    @classmethod
    def of(cls, root: Path) -> Layout:
        """Return the layout of a data-set folder."""
        return cls(root, root / "images", root / "labels")

    def image_files(self) -> dict[str, list[Path]]:
        """Return the images by stem."""
        return files_by_stem(self.images, IMAGE_SUFFIXES)

    def label_files(self) -> dict[str, list[Path]]:
        """Return the label maps by stem."""
        return files_by_stem(self.labels, self.suffixes)

    def grain_files(self) -> dict[str, list[Path]]:
        """Return the grain masks by stem."""
        return files_by_stem(self.root / "grains", LABEL_SUFFIXES)


@dataclass(frozen=True)
class Row:
    """What ``manifest.csv`` says of one image; None where it says nothing."""

    image: str
    label: str | None = None
    group: str | None = None
    um_per_px: float | None = None

    @property
    def name(self) -> str:
        """The image's stem."""
        return Path(self.image).stem


def find_samples(where: Path | Layout, um_per_px: float | None = None) -> tuple[Sample, ...]:
    """Pair the images of a data set with their label maps, by ascending name.

    Parameters
    ----------
    where
        The data-set folder, or the layout of another one.
    um_per_px
        Micrometres a pixel where ``manifest.csv`` says nothing.

    Raises
    ------
    DataError
        Where a folder is missing or files have no partner; all of them are named.
    """
    layout = where if isinstance(where, Layout) else Layout.of(where)
    for folder in (layout.images, layout.labels):
        if not folder.is_dir():
            raise DataError(f"{layout.root} is no data set: it lacks the folder {folder.name}/")
    rows = read_manifest(layout.root)
    problems = [f"{path} {message}" for path, message in pairing_problems(layout, rows)]
    if problems:
        raise DataError(f"{layout.root} is incomplete: {'; '.join(problems)}")
    listed = rows or [Row(paths[0].name) for paths in layout.image_files().values()]
    return _samples(layout, listed, um_per_px)


def _samples(layout: Layout, rows: Iterable[Row], um_per_px: float | None) -> tuple[Sample, ...]:
    labels, grains = layout.label_files(), layout.grain_files()
    samples = [
        Sample(
            name=row.name,
            image_path=layout.images / row.image,
            label_path=layout.labels / row.label if row.label else labels[row.name][0],
            grain_path=grains[row.name][0] if row.name in grains else None,
            group=row.group or row.name,
            um_per_px=row.um_per_px or um_per_px,
        )
        for row in rows
    ]
    return tuple(sorted(samples, key=lambda sample: sample.name))


def pairing_problems(layout: Layout, rows: Sequence[Row] | None) -> list[tuple[Path, str]]:
    """Name every file that lacks a partner, and every stem that stands for two files.

    Parameters
    ----------
    layout
        Of the data set.
    rows
        Of ``manifest.csv``; without it, files of the same stem are partners.
    """
    several = [
        *_several(layout.image_files()),
        *_several(layout.label_files()),
        *_several(layout.grain_files()),
    ]
    return several + (_stem_problems(layout) if rows is None else _manifest_problems(layout, rows))


def _several(files: Mapping[str, list[Path]]) -> list[tuple[Path, str]]:
    return [(paths[0], f"has the same stem as {other.name}") for paths in files.values() for other in paths[1:]]


def _stem_problems(layout: Layout) -> list[tuple[Path, str]]:
    images, labels = layout.image_files(), layout.label_files()
    return [
        *((paths[0], "has no label map") for stem, paths in images.items() if stem not in labels),
        *((paths[0], "has no image") for stem, paths in labels.items() if stem not in images),
        *([] if images else [(layout.images, "holds no image")]),
    ]


def _manifest_problems(layout: Layout, rows: Sequence[Row]) -> list[tuple[Path, str]]:
    labels, manifest = layout.label_files(), layout.root / "manifest.csv"
    listed = [layout.images / row.image for row in rows]
    listed += [layout.labels / row.label for row in rows if row.label]
    counts = Counter(row.name for row in rows)
    return [
        *((path, "is in manifest.csv but does not exist") for path in listed if not path.is_file()),
        *((layout.images / r.image, "has no label map") for r in rows if not r.label and r.name not in labels),
        *((manifest, f"lists {name} {count} times") for name, count in counts.items() if count > 1),
        *([] if rows else [(manifest, "lists no image")]),
    ]


def read_manifest(root: Path) -> list[Row] | None:
    """Read ``manifest.csv``; None where there is none. Columns other than ours are left alone.

    The header may have capitals, and any cell may have blanks around it; rows without any text are left out.

    Raises
    ------
    DataError
        Where the file is no CSV text in UTF-8, rows have more or fewer cells than the header, or a row names no
        image, a path instead of a file name, or a scale that is none.
    """
    path = root / "manifest.csv"
    if not path.exists():
        return None
    header, rows = _read_table(path)
    return [_row(f"{path}, line {number}", dict(zip(header, cells, strict=True))) for number, cells in rows]


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and each row with the number of the line it ends on."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # The blank after a comma would otherwise make the quotes around a cell part of its text.
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV ({error}): save it as CSV in UTF-8") from error
    filled = [(number, cells) for number, cells in lines if any(cells)]
    header = [name.lower() for name in filled[0][1]] if filled else []
    _check_table(path, header, filled[1:])
    return header, filled[1:]


def _check_table(path: Path, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]) -> None:
    for name in _COLUMNS:
        if header.count(name) > 1:
            raise DataError(f"{path} has {header.count(name)} columns {name}: leave one of them")
    if "image" not in header:
        raise DataError(f"{path} has no column image: the header must be {','.join(_COLUMNS)}, with commas")
    uneven = [(number, len(cells)) for number, cells in rows if len(cells) != len(header)]
    if uneven:
        named = ", ".join(f"line {number} has {count} cells" for number, count in uneven[:_MOST_NAMED])
        more = f", and so on in {len(uneven)} rows" if len(uneven) > _MOST_NAMED else ""
        raise DataError(
            f"{path}, {named}{more}, but the header has {len(header)}: "
            "give each row one cell a column, and put quotes around a cell with a comma"
        )


def _row(place: str, row: Mapping[str, str]) -> Row:
    image, label, group, scale = (row.get(column, "") for column in _COLUMNS)
    if not image:
        raise DataError(f"{place} names no image")
    for name in (image, label):
        if Path(name).name != name or "\\" in name:
            raise DataError(f"{place} has {name!r}: give file names without folders")
    return Row(image, label or None, group or None, _scale(place, scale))


def _scale(place: str, text: str) -> float | None:
    if not text:
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise DataError(f"{place} has um_per_px {text!r}: give micrometres a pixel as a positive number")
    return scale
