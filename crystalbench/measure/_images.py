"""The micrographs that are to be measured, and what lies beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalbench._exceptions import DataError
from crystalbench.data import LABEL_SUFFIXES, files_by_stem
from crystalbench.data._images import IMAGE_SUFFIXES

_LONGEST_NAME = 200
"""Bytes of a name: with the endings of our files it has to stay below the 255 of a file system."""


@dataclass(frozen=True)
class Micrograph:
    """An image without a truth.

    Parameters
    ----------
    name
        What it is called in tables and files: the stem of its file, with a number behind where several files have one
        stem.
    path
        The file, as the user named it.
    grain
        The mask outside of which pixels are zeroed, where the image lies in a data set that has one.
    """

    name: str
    path: Path
    grain: Path | None

    @property
    def full_path(self) -> Path:
        """The file from any folder; a link stays one, as its name says what the image is called."""
        return self.path.parent.resolve() / self.path.name

    @property
    def root(self) -> Path:
        """The folder of the data set that the image lies in, or that of the image itself."""
        return _root(self.path)


def find_micrographs(paths: Iterable[Path]) -> list[Micrograph]:
    """Return the micrographs that ``paths`` name: files, folders of images, or data-set folders; each once.

    Raises
    ------
    DataError
        Where a path does not exist, is no image, holds none, or is no text, or an image has two grain masks.
    """
    files = list({file.resolve(): file for path in paths for file in _files(path)}.values())
    grains = {root: files_by_stem(root / "grains", LABEL_SUFFIXES) for root in {_root(file) for file in files}}
    return [
        Micrograph(name, file, _only(grains[_root(file)].get(file.stem, [])))
        for name, file in zip(_names(files), files, strict=True)
    ]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        found = [file for files in files_by_stem(folder, IMAGE_SUFFIXES).values() for file in files]
        if not found:
            raise DataError(f"{folder} holds no image: name a folder of PNG, TIFF, JPEG or BMP files")
    else:
        found = [path]
    for file in found:
        _check(file)
        yield file


def _check(file: Path) -> None:
    if not file.is_file():
        raise DataError(f"{file} does not exist")
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"{file} is no image format that is read: save it as PNG, TIFF, JPEG or BMP")
    try:
        str(file.resolve()).encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(file)!r}: rename it, as its name or that of a folder above it is no UTF-8") from None


def _names(files: Sequence[Path]) -> list[str]:
    """Return a name for each file that no other has."""
    stems = [file.stem.encode()[:_LONGEST_NAME].decode(errors="ignore") for file in files]
    known, taken = set(stems), set[str]()
    names = []
    for stem in stems:
        name, number = stem, 1
        while name in taken or (number > 1 and name in known):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _root(file: Path) -> Path:
    folder = file.absolute().parent
    return folder.parent if folder.name == "images" else folder


def _only(masks: Sequence[Path]) -> Path | None:
    if len(masks) > 1:
        raise DataError(f"{masks[0]} and {masks[1].name} beside it have one stem: keep one of them")
    return masks[0] if masks else None
