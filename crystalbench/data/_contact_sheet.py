"""A data set at a glance: a sheet of thumbnails and a summary in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from crystalbench._exceptions import SplitError
from crystalbench.data._classes import CLASSES, crystal_lengths, difficulty_class
from crystalbench.data._dataset import Dataset, Sample
from crystalbench.data._images import write_image
from crystalbench.data._splits import SUBSETS, Split

_THUMBNAIL = 240
_CAPTION = 34
_GAP = 8
_FONT_SIZE = 12
_MOST_COLUMNS = 6
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)
_OUTLINE = (255, 220, 0)


def contact_sheet(dataset: Dataset, out: Path, *, limit: int = 60) -> Path:
    """Draw thumbnails with crystal outlines, sizes, difficulty classes and subsets into one PNG.

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
    sheet.paste(_thumbnail(image, label), corner)
    height, width = label.shape
    subset = subsets.get(sample.name, "unused" if subsets else "no split")
    lines = (f"{sample.name}, {width} x {height} px, {subset}", _crystals(label, dataset.class_px))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    top = corner[1] + _THUMBNAIL
    for line, text in enumerate(lines):
        place = (corner[0], top + line * _CAPTION // 2)
        draw.text(place, _fitted(draw, text, font), fill=_INK, font=font)


def _crystals(label: NDArray[np.int32], class_px: int) -> str:
    lengths = crystal_lengths(label)
    sizes = f" of {lengths.min()} to {lengths.max()} px" if lengths.size else ""
    return f"{lengths.size} crystals{sizes}, class {difficulty_class(label, class_px)}"


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    while draw.textlength(text, font=font) > _THUMBNAIL:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _thumbnail(image: NDArray[np.uint8], label: NDArray[np.int32]) -> Image.Image:
    height, width = label.shape
    scale = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    rows = np.arange(size[1]) * height // size[1]
    columns = np.arange(size[0]) * width // size[0]
    small[find_boundaries(label[np.ix_(rows, columns)], mode="inner")] = _OUTLINE
    return Image.fromarray(small)
