"""One image after the other: what is measured, and the files that belong to it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from pydantic import BaseModel

from crystalbench._exceptions import LabelError
from crystalbench._files import file_sha256, write_atomic
from crystalbench.data import read_grain, read_labels, read_micrograph, write_image
from crystalbench.data._classes import compact
from crystalbench.data._dataset import check_shape
from crystalbench.data._pictures import fitted, outlined
from crystalbench.data._run_lengths import encode_runs
from crystalbench.evaluation._grain_size import GrainSize
from crystalbench.evaluation._outlines import outlines
from crystalbench.experiment._keys import key_of
from crystalbench.measure._crystals import Crystals, measure_crystals
from crystalbench.measure._exports import cellpose_seg, imagej_rois
from crystalbench.measure._images import Micrograph

_VERSION = 1
"""Goes up with every change of what is measured or written of an image."""

INSIDE_COLOUR, BORDER_COLOUR = (255, 64, 64), (255, 200, 0)
_LEAST_OVERLAY, _MOST_OVERLAY, _THUMBNAIL = 444, 1024, 256


class Measured(BaseModel):
    """What is known of the crystals of one image; in pixels, as scales can be told later.

    Parameters
    ----------
    key
        Says of what image, label map and version.
    width, height
        Of the image.
    frame_px
        Pixels in which crystals can lie: of the image, or of its grain mask.
    ends
        As of :class:`crystalbench.evaluation.GrainSize`.
    crystals
        The measures.
    runs
        The mask of each crystal in COCO's run lengths.
    thumbnail
        A JPEG of the overlay in base 64.
    """

    key: str
    width: int
    height: int
    frame_px: int
    ends: int
    crystals: Crystals
    runs: list[list[int]]
    thumbnail: str

    @property
    def grain_size(self) -> GrainSize:
        """What ASTM E112 makes of the crystals."""
        crystals = self.crystals
        return GrainSize(self.frame_px, tuple(sorted(crystals.area_px)), sum(crystals.touches_border), self.ends)

    def coco(self) -> list[dict[str, Any]]:
        """Return the crystals as annotations of COCO, without ids."""
        crystals = self.crystals
        boxes = zip(*_boxes(crystals), strict=True)
        return [
            {"bbox": list(box), "area": area, "segmentation": {"size": [self.height, self.width], "counts": runs}}
            for box, area, runs in zip(boxes, crystals.area_px, self.runs, strict=True)
        ]


@dataclass(frozen=True)
class Files:
    """Where the files of one image lie in the folder ``out``."""

    out: Path
    name: str

    @property
    def measured(self) -> Path:
        """What is known of the image, for a call that goes on."""
        return self.out / "work" / "measured" / f"{self.name}.json"

    @property
    def overlay(self) -> Path:
        """The outlines over the image."""
        return self.out / "overlays" / f"{self.name}.png"

    @property
    def seg(self) -> Path:
        """For Cellpose's window."""
        return self.out / "cellpose" / f"{self.name}_seg.npy"

    @property
    def rois(self) -> Path:
        """For ImageJ's ROI manager."""
        return self.out / "rois" / f"{self.name}.zip"


def measure_image(image: Micrograph, key: str, labels_file: Path, out: Path, *, rois: bool) -> Measured:
    """Measure the crystals of one label map and write its files, unless an earlier call has done it.

    Parameters
    ----------
    image
        The micrograph.
    key
        Of its label map.
    labels_file
        The label map; one that was corrected by hand is measured anew.
    out
        The folder to write into.
    rois
        Whether ImageJ's ROIs are written.

    Raises
    ------
    DataError
        Where one of the files cannot be read, or the label map is not of the image's shape.
    """
    files = Files(out, image.name)
    key = key_of(image=key, labels=file_sha256(labels_file), file=str(image.full_path), version=_VERSION)
    written = [files.overlay, files.seg, *([files.rois] if rois else [])]
    before = _read(files.measured)
    if before is not None and before.key == key and all(file.exists() for file in written):
        return before
    pixels, labels = read_micrograph(image.path, image.grain), read_labels(labels_file)
    check_shape(labels_file, labels.shape, image.path, LabelError)
    frame_px = labels.size if image.grain is None else int(np.count_nonzero(read_grain(image.grain)))
    measured = _measured(key, pixels, labels, frame_px)
    _write_files(files, image, pixels, compact(labels), measured, rois=rois)
    # The last of the files: with it the image is done.
    write_atomic(files.measured, measured.model_dump_json().encode())
    return measured


def _measured(key: str, pixels: NDArray[np.uint8], labels: NDArray[np.integer[Any]], frame_px: int) -> Measured:
    numbers, compacted = np.unique(labels[labels > 0]), compact(labels)
    found = outlines(compacted)
    return Measured(
        key=key,
        width=labels.shape[1],
        height=labels.shape[0],
        frame_px=frame_px,
        ends=int(found.ends.sum()),
        crystals=measure_crystals(compacted, numbers, found),
        runs=encode_runs(compacted),
        thumbnail=_jpeg(_drawn(pixels, compacted, found.cut, _THUMBNAIL)),
    )


def _write_files(
    files: Files,
    image: Micrograph,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    measured: Measured,
    *,
    rois: bool,
) -> None:
    crystals = measured.crystals
    side = min(max(_LEAST_OVERLAY, *labels.shape), _MOST_OVERLAY)
    write_image(files.overlay, _drawn(pixels, labels, np.array(crystals.touches_border, bool), side))
    write_atomic(files.seg, cellpose_seg(labels, image.full_path))
    if rois:
        write_atomic(files.rois, imagej_rois(labels, crystals.label, zip(*_boxes(crystals), strict=True)))


def _read(file: Path) -> Measured | None:
    try:
        return Measured.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def _boxes(crystals: Crystals) -> tuple[list[int], list[int], list[int], list[int]]:
    return crystals.bbox_x_px, crystals.bbox_y_px, crystals.bbox_width_px, crystals.bbox_height_px


def _drawn(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], cut: NDArray[np.bool_], side: int
) -> NDArray[np.uint8]:
    """Return the image with the outlines of its crystals, those that the border cuts in a colour of their own."""
    at_border = np.where(np.append(False, cut)[labels], labels, 0)
    return outlined(outlined(fitted(pixels, side), labels, INSIDE_COLOUR), at_border, BORDER_COLOUR)


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "JPEG", quality=75)
    return base64.b64encode(buffer.getvalue()).decode()
