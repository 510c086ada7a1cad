"""What the crystals of an image come to."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel

from crystalbench.evaluation._scores import nan_to_none
from crystalbench.measure._images import Micrograph
from crystalbench.measure._measured import Measured
from crystalbench.measure._scale import Scale
from crystalbench.measure._tolerance import Tolerance

_QUANTILES = (10, 50, 90)


class ImageSummary(BaseModel):
    """A row of ``images.csv``; None where something is unknown or undefined.

    Attributes
    ----------
    image, file
        The image's name in all tables, and its file as it was given.
    status, error
        Whether it was measured, and why not.
    width_px, height_px
        Of the image.
    um_per_px, um_per_px_from
        The scale, and who says so; or why one that is there was not taken.
    n_crystals, n_touching_border
        Crystals, and how many of them the border of the image cuts.
    covered
        Share of the frame that crystals cover, as a fraction.
    acs_px, acs_um
        Average crystal size: mean equivalent diameter of all crystals, those that the border cuts too.
    acs_low_px, acs_high_px, acs_low_um, acs_high_um, acs_coverage
        Between what the true ACS lies, and for which share of images; see :func:`tolerance`.
    d10_px, d50_px, d90_px, d10_um, d50_um, d90_um
        Percentiles of the equivalent diameters, by number.
    mean_intercept_px, mean_intercept_um
        Mean intercept along rows and columns (ASTM E112).
    astm_g_planimetric, astm_g_intercept
        Grain size numbers (ASTM E112).
    """

    image: str
    file: str
    status: Literal["ok", "failed"]
    error: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    um_per_px: float | None = None
    um_per_px_from: str = ""
    n_crystals: int | None = None
    n_touching_border: int | None = None
    covered: float | None = None
    acs_px: float | None = None
    acs_low_px: float | None = None
    acs_high_px: float | None = None
    acs_um: float | None = None
    acs_low_um: float | None = None
    acs_high_um: float | None = None
    acs_coverage: float | None = None
    d10_px: float | None = None
    d50_px: float | None = None
    d90_px: float | None = None
    d10_um: float | None = None
    d50_um: float | None = None
    d90_um: float | None = None
    mean_intercept_px: float | None = None
    mean_intercept_um: float | None = None
    astm_g_planimetric: float | None = None
    astm_g_intercept: float | None = None


def failed(image: Micrograph, error: str) -> ImageSummary:
    """Return the row of an image that was not measured."""
    return ImageSummary(image=image.name, file=str(image.path), status="failed", error=error)


def summarize_image(image: Micrograph, measured: Measured, scale: Scale, within: Tolerance | None) -> ImageSummary:
    """Return the row of an image whose crystals were measured; ``within`` is that of the model."""
    size, um = measured.grain_size, scale.um_per_px
    lengths = {"acs": size.acs, "mean_intercept": size.mean_intercept, **_percentiles(measured)}
    if within is not None:
        lengths |= {"acs_low": size.acs * within.low, "acs_high": size.acs * within.high}
    in_px = {f"{name}_px": nan_to_none(length) for name, length in lengths.items()}
    in_um = {f"{name}_um": nan_to_none(length * um) for name, length in lengths.items()} if um else {}
    g = {"planimetric": size.planimetric_g(um), "intercept": size.intercept_g(um)} if um else {}
    return ImageSummary(
        image=image.name,
        file=str(image.path),
        status="ok",
        width_px=measured.width,
        height_px=measured.height,
        um_per_px=um,
        um_per_px_from=scale.origin or scale.note,
        n_crystals=len(size.areas),
        n_touching_border=size.cut,
        covered=sum(size.areas) / size.frame_px if size.frame_px else None,
        acs_coverage=within.coverage if within and size.areas else None,
        **{f"astm_g_{procedure}": nan_to_none(number) for procedure, number in g.items()},
        **in_px,
        **in_um,
    )


def _percentiles(measured: Measured) -> dict[str, float]:
    diameters = measured.crystals.equivalent_diameter_px
    values = np.percentile(diameters, _QUANTILES).tolist() if diameters else [math.nan] * len(_QUANTILES)
    return {f"d{share}": value for share, value in zip(_QUANTILES, values, strict=True)}
