"""The gallery of a board: every test image with its truth and every method's outlines, their errors coloured."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from numpy.typing import NDArray

from crystalbench.data import Sample
from crystalbench.evaluation._scores import nan_to_none
from crystalbench.experiment import ImageRecord
from crystalbench.leaderboard._html import _pictures
from crystalbench.leaderboard._html._entries import Entry
from crystalbench.leaderboard._html._kinds import error_kinds
from crystalbench.leaderboard._html._sources import find_samples, label_files, read_map, read_tested
from crystalbench.segmenter import Image as Pixels

Store = Callable[[str, bytes], str]
"""Keeps a picture under a name that is the page's own, and returns what the page finds it by."""


def inline(name: str, picture: bytes) -> str:
    """Return a picture as a part of the page."""
    return f"data:{_pictures.MEDIA_TYPE};base64,{base64.b64encode(picture).decode()}"


@dataclass(frozen=True)
class Beside:
    """Keeps pictures in ``folder``, which lies beside the page."""

    folder: Path

    def __call__(self, name: str, picture: bytes) -> str:
        """Write a picture and return the address that it has in the page."""
        (self.folder / name).write_bytes(picture)
        return quote(f"{self.folder.name}/{name}")


@dataclass(frozen=True)
class Gallery:
    """The test images of a board and where their pictures come from; of several seeds the first is shown.

    ``number`` is the board's, ``tested`` holds the recorded results of each image by its name, ``labels`` the files of
    each entry's label maps.
    """

    number: int
    entries: Sequence[Entry]
    tested: Mapping[str, Sequence[ImageRecord]]
    samples: Mapping[str, Sample]
    labels: Sequence[Mapping[str, Path]]

    @classmethod
    def of(cls, number: int, entries: Sequence[Entry]) -> Gallery:
        """Find what there is of a board's test images."""
        records = [stored.record for entry in entries for stored in entry.seeds]
        tested: dict[str, list[ImageRecord]] = {}
        for image in sorted((image for record in records for image in record.images), key=lambda image: image.image):
            tested.setdefault(image.image, []).append(image)
        return cls(number, entries, tested, find_samples(records), [label_files(entry.seeds) for entry in entries])

    @property
    def names(self) -> list[str]:
        """The images, in the order of the cases."""
        return list(self.tested)

    def note(self, cases: Sequence[Mapping[str, Any]]) -> str:
        """Say what the cases of all images lack; nothing where they have all."""
        lacking = sum(case["image"] is None for case in cases)
        told = []
        if lacking:
            which = "the test images" if lacking == len(cases) else f"{lacking} test images"
            told.append(
                f"The data set is not here with the pixels that were tested, for {which}: "
                "outlines are shown alone, and their errors are not known."
            )
        if not any(self.labels):
            told.append("The label maps do not lie beside the records: there are no outlines to show.")
        return " ".join(told)

    def case(self, index: int, store: Store) -> dict[str, Any]:
        """Draw one image and return what the page shows of it."""
        name = self.names[index]
        read = read_tested(self.samples.get(name), {image.pixels_sha256 for image in self.tested[name]})
        truth = read[1] if read else None
        maps = [read_map(files.get(name), truth.shape if truth is not None else None) for files in self.labels]
        shape = next((labels.shape for labels in (truth, *maps) if labels is not None), None)
        return {
            "name": name,
            "difficulty": self.tested[name][0].difficulty,
            "shape": shape,
            **self._photographs(index, read, store),
            "methods": [self._method(index, entry, maps[entry.index], truth, store) for entry in self.entries],
        }

    def _photographs(self, index: int, read: tuple[Pixels, NDArray[Any]] | None, store: Store) -> dict[str, str | None]:
        if read is None:
            return dict.fromkeys(("thumbnail", "image", "truth"))
        (image, truth), place = read, f"{self.number}-{index}"
        return {
            "thumbnail": store(f"{place}-thumbnail.webp", _pictures.thumbnail(image)),
            "image": store(f"{place}.webp", _pictures.photograph(image)),
            "truth": store(f"{place}-truth.webp", _pictures.truth_outlines(truth)),
        }

    def _method(
        self, index: int, entry: Entry, labels: NDArray[Any] | None, truth: NDArray[Any] | None, store: Store
    ) -> dict[str, Any]:
        name = f"{self.number}-{index}-{entry.index}.webp"
        found = entry.images.get(self.names[index])
        scores = {} if found is None else {key: nan_to_none(value) for key, value in vars(found).items()}
        if labels is None:
            return {**scores, "outlines": None, "errors": None}
        if truth is None:
            return {**scores, "outlines": store(name, _pictures.outlines(labels)), "errors": None}
        kinds = error_kinds(truth, labels)
        drawn = _pictures.error_outlines(truth, labels, kinds)
        return {**scores, "outlines": store(name, drawn), "errors": kinds.counts}
