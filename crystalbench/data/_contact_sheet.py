"""A data set at a glance: a sheet of thumbnails and a summary in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crystalbench._exceptions import SplitError
from crystalbench.data._classes import CLASSES, crystal_lengths, difficulty_class
from crystalbench.data._dataset import Dataset, Sample
from crystalbench.data._images import write_image
from crystalbench.data._pictures import fitted, outlined, plain
from crystalbench.data._splits import SUBSETS, Split

_THUMBNAIL = 240
_LEAST_CRYSTAL = 14
"""How long the crystals of an image are in a thumbnail at least, on average, in pixels."""
_CAPTION = 34
_GAP = 8
_FONT_SIZE = 12
_MOST_COLUMNS = 6
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)
_OUTLINE = (255, 220, 0)


def contact_sheet(dataset: Dataset, out: Path, *, limit: int = 60) -> Path:
    """Draw thumbnails with crystal outlines, sizes, difficulty classes and subsets into one PNG.

    Of an image whose crystals would be too small to see, a part is shown, and the caption says so.

    Parameters
    ----------
    dataset
        What to show.
    out
        The file to write.
    limit
        Show at most so many samples, taken evenly over the data set.

    Raises
    ------
    DataError
        Where an image or a label map cannot be used.
    """
    samples = _evenly(dataset.samples, limit)
    subsets = _subsets(_split_of(dataset))
    columns = min(_MOST_COLUMNS, max(1, math.ceil(math.sqrt(len(samples)))))
    rows = math.ceil(len(samples) / columns)
    cell = (_THUMBNAIL + _GAP, _THUMBNAIL + _CAPTION + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    for place, sample in enumerate(samples):
        row, column = divmod(place, columns)
        _draw_sample(sheet, (column * cell[0] + _GAP, row * cell[1] + _GAP), dataset, sample, subsets)
    write_image(out, np.asarray(sheet))
    return out


def describe(dataset: Dataset) -> dict[str, Any]:
    """Summarise a data set in numbers that JSON can hold. Reads every label map.

    Returns
    -------
    dict
        ``name title um_per_px line_px class_px images groups crystals``; ``image_side_px crystals_per_image
        crystal_length_px``, each a mapping of ``min median max`` (null without any); ``classes``, and
        ``subsets`` with ``images crystals classes`` of train, val and test (empty where there is no split).
    """
    lengths = {sample.name: crystal_lengths(sample.label) for sample in dataset.samples}
    classes = dataset.classes()
    split = _split_of(dataset)
    return {
        "name": dataset.name,
        "title": dataset.title,
        "um_per_px": dataset.um_per_px,
        "line_px": dataset.line_px,
        "class_px": dataset.class_px,
        "groups": len({sample.group for sample in dataset.samples}),
        **_part(dataset.samples, lengths, classes),
        "image_side_px": _range(np.array([max(s.shape) for s in dataset.samples])),
        "crystals_per_image": _range(np.array([len(found) for found in lengths.values()])),
        "crystal_length_px": _range(np.concatenate(list(lengths.values()))),
        "subsets": {s: _part(getattr(split, s), lengths, classes) for s in SUBSETS} if split else {},
    }


def _part(
    samples: Sequence[Sample], lengths: Mapping[str, NDArray[np.int64]], classes: Mapping[str, int]
) -> dict[str, Any]:
    names = [sample.name for sample in samples]
    return {
        "images": len(names),
        "crystals": sum(len(lengths[name]) for name in names),
        "classes": {str(c): sum(classes[name] == c for name in names) for c in CLASSES},
    }


def _range(values: NDArray[np.int64]) -> dict[str, float | None]:
    if values.size == 0:
        return {"min": None, "median": None, "max": None}
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}


def _split_of(dataset: Dataset) -> Split | None:
    try:
        return dataset.split()
    except SplitError:
        return None


def _subsets(split: Split | None) -> dict[str, str]:
    if split is None:
        return {}
    return {sample.name: "+".join(split.subsets(sample.name)) for sample in split.samples}


def _evenly(samples: Sequence[Sample], limit: int) -> list[Sample]:
    count = min(limit, len(samples))
    return [samples[place * len(samples) // count] for place in range(count)]


def _draw_sample(
    sheet: Image.Image,
    corner: tuple[int, int],
    dataset: Dataset,
    sample: Sample,
    subsets: Mapping[str, str],
) -> None:
    image, label = sample.image, sample.label
    window = _window(label)
    tile = outlined(fitted(image[window], _THUMBNAIL), label[window], _OUTLINE)
    sheet.paste(Image.fromarray(tile), corner)
    height, width = label.shape
    part = "part of " if label[window].size < label.size else ""
    subset = subsets.get(sample.name, "unused" if subsets else "no split")
    lines = ((sample.name, f", {part}{width} x {height} px, {subset}"), (_crystals(label, dataset.class_px), ""))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    top = corner[1] + _THUMBNAIL
    for line, (text, rest) in enumerate(lines):
        place = (corner[0], top + line * _CAPTION // 2)
        draw.text(place, _shortened(draw, plain(text), rest, font), fill=_INK, font=font)


def _window(label: NDArray[np.int32]) -> tuple[slice, slice]:
    """Return what of an image is shown: all of it, or the middle of its crystals where they are many and small.

    Thumbnails of thousands of crystals would be nothing but outlines.
    """
    lengths = crystal_lengths(label)
    if lengths.size == 0:
        return slice(None), slice(None)
    side = max(_THUMBNAIL, round(_THUMBNAIL * float(lengths.mean()) / _LEAST_CRYSTAL))
    inside = label > 0
    return _span(inside.sum(axis=1), side), _span(inside.sum(axis=0), side)


def _span(counts: NDArray[np.int64], side: int) -> slice:
    """Return ``side`` places, about half of ``counts`` before their middle and half after it."""
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    start = min(max(0, middle - side // 2), max(0, counts.size - side))
    return slice(start, start + side)


def _crystals(label: NDArray[np.int32], class_px: int) -> str:
    lengths = crystal_lengths(label)
    sizes = f" of {lengths.min()} to {lengths.max()} px" if lengths.size else ""
    return f"{lengths.size} crystals{sizes}, class {difficulty_class(label, class_px)}"


def _shortened(draw: ImageDraw.ImageDraw, text: str, rest: str, font: Any) -> str:
    while text != "..." and draw.textlength(text + rest, font=font) > _THUMBNAIL:
        text = text.removesuffix("...")[:-1] + "..."
    return text + rest
