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

from crystalbench._files import write_atomic
from crystalbench.data import Sample
from crystalbench.data._pictures import fitted, outlined, plain
from crystalbench.segmenter import Image, Segmenter

TRUTH_COLOUR = (0, 220, 255)
PREDICTION_COLOUR = (255, 64, 64)
_LEAST_PANEL = 444
_MOST_PANEL = 1024
_GAP = 4
_CAPTION = 24
_COLUMNS = 4


def draw_overlay(
    file: Path, segmenter: Segmenter, sample: Sample, prediction: NDArray[np.integer[Any]], pq: float
) -> None:
    """Write one PNG: the micrograph, truth and prediction as outlines, and the method's own pictures."""
    image, truth = sample.image, sample.label
    side = min(max(_LEAST_PANEL, *image.shape[:2]), _MOST_PANEL)
    shown = fitted(image, side)
    panels = {
        f"{sample.name}  {image.shape[1]} x {image.shape[0]} px": shown,
        f"truth: {np.unique(truth[truth > 0]).size} crystals": outlined(shown, truth, TRUTH_COLOUR),
        f"{segmenter.info.name}: {np.unique(prediction[prediction > 0]).size} crystals, PQ {pq:.3f}": outlined(
            shown, prediction, PREDICTION_COLOUR
        ),
        **{title: fitted(picture, side) for title, picture in segmenter.pictures(image).items()},
    }
    buffer = io.BytesIO()
    PillowImage.fromarray(_sheet(panels)).save(buffer, "PNG", optimize=True)
    write_atomic(file, buffer.getvalue())


def _sheet(panels: dict[str, Image]) -> Image:
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height, width = (max(picture.shape[axis] for picture in panels.values()) for axis in (0, 1))
    cell = (width + _GAP, height + _CAPTION + _GAP)
    sheet = PillowImage.new("RGB", (columns * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for index, (title, picture) in enumerate(panels.items()):
        x, y = index % columns * cell[0], index // columns * cell[1]
        draw.text((x + _GAP, y + 3), plain(title), fill="black", font=font)
        sheet.paste(PillowImage.fromarray(picture), (x + _GAP // 2, y + _CAPTION))
    return np.asarray(sheet)
