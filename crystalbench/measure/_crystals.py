"""What is measured of each crystal of a label map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from crystalbench.evaluation import feret_diameters
from crystalbench.evaluation._outlines import Outlines

_LENGTHS = ("equivalent_diameter", "feret_max", "feret_min", "length", "major_axis", "minor_axis")


class Crystals(BaseModel):
    """The crystals of one image, a list a measure, in the order of their labels.

    Attributes
    ----------
    label
        In the label map.
    area_px
        Pixels.
    equivalent_diameter_px
        2 sqrt(area / pi).
    feret_max_px, feret_min_px
        As :func:`crystalbench.evaluation.feret_diameters`.
    length_px
        Longer side of the bounding box.
    bbox_x_px, bbox_y_px, bbox_width_px, bbox_height_px
        The axis-aligned bounding box: its first column and row of pixels, from 0, and how many it has.
    major_axis_px, minor_axis_px, axis_ratio
        Axes of the ellipse with the same second moments (scikit-image's ``axis_major_length``, ``axis_minor_length``),
        and the minor as a fraction of the major.
    centroid_x_px, centroid_y_px
        Mean position of the pixels; the centre of the first pixel of the image is 0, 0, and y points down.
    touches_border
        Whether it has a pixel of the outermost row or column of the image, which cuts it.
    """

    label: list[int]
    area_px: list[int]
    equivalent_diameter_px: list[float]
    feret_max_px: list[float]
    feret_min_px: list[float]
    length_px: list[int]
    bbox_x_px: list[int]
    bbox_y_px: list[int]
    bbox_width_px: list[int]
    bbox_height_px: list[int]
    major_axis_px: list[float]
    minor_axis_px: list[float]
    axis_ratio: list[float]
    centroid_x_px: list[float]
    centroid_y_px: list[float]
    touches_border: list[bool]

    def columns(self, um_per_px: float | None) -> dict[str, list[Any]]:
        """Return all of the above by name, and sizes in micrometres behind, None where the scale is unknown."""
        columns = self.model_dump()
        columns["area_um2"] = [um_per_px and area * um_per_px**2 for area in self.area_px]
        for name in _LENGTHS:
            columns[f"{name}_um"] = [um_per_px and length * um_per_px for length in columns[f"{name}_px"]]
        return columns


def measure_crystals(labels: NDArray[np.int32], numbers: NDArray[np.integer[Any]], outlined: Outlines) -> Crystals:
    """Measure the crystals of a label map.

    Parameters
    ----------
    labels
        H x W label map of the crystals 1, 2, ... n, all of them there.
    numbers
        What crystals 1 to n are called, shape (n,).
    outlined
        Their outlines.
    """
    from skimage.measure import regionprops_table

    wanted = ("bbox", "centroid", "axis_major_length", "axis_minor_length")
    found = regionprops_table(labels, properties=wanted)
    top, left, bottom, right = (found[f"bbox-{side}"] for side in range(4))
    major, minor = found["axis_major_length"], found["axis_minor_length"]
    feret = feret_diameters(labels)
    columns = {
        "label": numbers,
        "area_px": outlined.areas,
        "equivalent_diameter_px": 2 * np.sqrt(outlined.areas / np.pi),
        "feret_max_px": feret.longest,
        "feret_min_px": feret.shortest,
        "length_px": outlined.lengths,
        "bbox_x_px": left,
        "bbox_y_px": top,
        "bbox_width_px": right - left,
        "bbox_height_px": bottom - top,
        "major_axis_px": major,
        "minor_axis_px": minor,
        "axis_ratio": minor / major,
        "centroid_x_px": found["centroid-1"],
        "centroid_y_px": found["centroid-0"],
        "touches_border": outlined.cut,
    }
    return Crystals.model_validate({name: column.tolist() for name, column in columns.items()})
