"""Pictures of a prediction over its micrograph, with the method's intermediate results beside it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from crystalbench._files import write_atomic
from crystalbench.data import Sample
from crystalbench.segmenter import Image, Segmenter

TRUTH_COLOUR = (0, 220, 255)
PREDICTION_COLOUR = (255, 64, 64)
_PANEL = 448
_CAPTION = 24
_COLUMNS = 4


def outline(image: Image, labels: NDArray[np.integer[Any]], colour: tuple[int, int, int]) -> Image:
    """Return ``image`` with the outline of every crystal drawn in ``colour``."""
    drawn = image.copy()
    drawn[find_boundaries(labels, mode="inner")] = colour
    return drawn


def draw_overlay(
    file: Path, segmenter: Segmenter, sample: Sample, prediction: NDArray[np.integer[Any]], pq: float
) -> None:
    """Write one PNG: the micrograph, truth and prediction as outlines, and the method's own pictures."""
    image, truth = sample.image, sample.label
    panels = {
        f"{sample.name}  {image.shape[1]} x {image.shape[0]} px": image,
        f"truth: {np.unique(truth[truth > 0]).size} crystals": outline(image, truth, TRUTH_COLOUR),
        f"{segmenter.info.name}: {np.unique(prediction[prediction > 0]).size} crystals, PQ {pq:.3f}": outline(
            image, prediction, PREDICTION_COLOUR
        ),
        **segmenter.pictures(image),
    }
    buffer = io.BytesIO()
    PillowImage.fromarray(_sheet(panels)).save(buffer, "PNG", optimize=True)
    write_atomic(file, buffer.getvalue())


def _sheet(panels: dict[str, Image]) -> Image:
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (columns * _PANEL, rows * (_PANEL + _CAPTION))
    sheet = PillowImage.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for index, (title, picture) in enumerate(panels.items()):
        x, y = index % columns * _PANEL, index // columns * (_PANEL + _CAPTION)
        draw.text((x + 4, y + 3), title, fill="black", font=font)
        sheet.paste(_fit(picture), (x + 2, y + _CAPTION))
    return np.asarray(sheet)


def _fit(picture: Image) -> PillowImage.Image:
    scale = (_PANEL - 4) / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    resample = PillowImage.Resampling.NEAREST if scale > 1 else PillowImage.Resampling.LANCZOS
    return PillowImage.fromarray(picture).resize(size, resample)
