"""Label maps in the forms that other tools open: Cellpose's window, ImageJ's ROI manager, COCO."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from roifile import ImagejRoi

Points = NDArray[np.int64]

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0


def cellpose_seg(labels: NDArray[np.int32], image: Path) -> bytes:
    """Return what Cellpose's window opens as ``STEM_seg.npy``.

    Parameters
    ----------
    labels
        H x W label map of the crystals 1, 2, ... n.
    image
        The micrograph, which the window opens with it; an absolute path.
    """
    from skimage.segmentation import find_boundaries

    count = int(labels.max(initial=0))
    masks = labels.astype(np.uint16 if count < np.iinfo(np.uint16).max else np.uint32)
    content = {
        "masks": masks,
        "outlines": masks * find_boundaries(masks, mode="inner"),
        "chan_choose": [0, 0],
        "ismanual": np.zeros(count, bool),
        "filename": str(image),
    }
    buffer = io.BytesIO()
    # Its form is a pickled dict in an array of one object, which is what `numpy.load(...).item()` there reads.
    np.save(buffer, np.array(content, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def imagej_rois(labels: NDArray[np.int32], numbers: Iterable[int], boxes: Iterable[tuple[int, int, int, int]]) -> bytes:
    """Return a ZIP of ImageJ's ROIs, one a crystal along the edges of its pixels, for the ROI manager.

    A crystal of several pieces, or with holes, is one composite ROI.

    Parameters
    ----------
    labels
        H x W label map of the crystals 1, 2, ... n.
    numbers
        What crystals 1 to n are called, for the names of their ROIs.
    boxes
        First column, first row, width and height of the bounding box of each.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for crystal, (number, (x, y, width, height)) in enumerate(zip(numbers, boxes, strict=True), start=1):
            mask = labels[y : y + height, x : x + width] == crystal
            loops = [np.add(loop, (x, y)) for loop in outline_loops(mask)]
            name = f"{number:05d}"
            archive.writestr(f"{name}.roi", _roi(name, loops).tobytes())
    return buffer.getvalue()


def outline_loops(mask: NDArray[np.bool_]) -> list[Points]:
    """Return the closed lines along the edges of a mask's pixels: the outlines of its pieces, and of their holes.

    Each has the shape (n, 2): x and y of its corners, where the first pixel reaches from 0, 0 to 1, 1. Pieces that meet
    in a corner alone are apart. Outlines run one way round and holes the other, so that every rule of filling gives
    the mask.
    """
    from skimage.measure import find_contours

    # Through the middles of the edges between pixels inside and outside, one after the other.
    lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="low")
    return [_corners(line) for line in lines]


def _corners(line: NDArray[np.float64]) -> Points:
    """Return the corners of pixels at which a line of middles of edges turns."""
    before, after = line[:-1], line[1:]
    turns = (before != after).all(axis=1)
    before, after = before[turns], after[turns]
    # Between two pixels of a column lies an edge along x, whose y is that of the corner.
    along_x = (before[:, 0] % 1 == 0.5)[:, None]
    y_x = np.where(along_x, np.stack((before[:, 0], after[:, 1]), 1), np.stack((after[:, 0], before[:, 1]), 1))
    return np.asarray((y_x - 0.5)[:, ::-1], np.int64)


def _roi(name: str, loops: list[Points]) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    if len(loops) == 1:
        roi = ImagejRoi.frompoints(loops[0], name=name)
        roi.roitype = ROI_TYPE.TRACED
        return roi
    corners = np.concatenate(loops)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    path = np.array([part for loop in loops for part in _path(loop)], np.float32)
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        name=name,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        shape_roi_size=path.size,
        multi_coordinates=path,
    )


def _path(loop: Points) -> Iterator[float]:
    for number, (x, y) in enumerate(loop.tolist()):
        yield from (_LINE if number else _MOVE, x, y)
    yield _CLOSE


def coco(images: Iterable[tuple[dict[str, Any], Iterable[dict[str, Any]]]]) -> dict[str, Any]:
    """Return COCO's form of ``images``: each with its annotations, which are numbered here; masks are run lengths."""
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, crystals in images:
        listed.append({"id": len(listed) + 1, **image})
        for crystal in crystals:
            ids = {"id": len(annotations) + 1, "image_id": len(listed), "category_id": 1, "iscrowd": 0}
            annotations.append(ids | crystal)
    categories = [{"id": 1, "name": "crystal", "supercategory": "crystal"}]
    return {"info": {}, "images": listed, "annotations": annotations, "categories": categories}
