"""The scores of many images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crystalbench.evaluation._extras import EXTRA_SCALARS, ImageExtras, by_length_to_json
from crystalbench.evaluation._scores import ImageScores, nan_to_none, panoptic_quality


@dataclass(frozen=True)
class Summary:
    """Means and standard deviations (ddof = 1) of scores per image; undefined scores are left out.

    All are fractions, except that ``acs``, ``acs_truth``, their deviations and ``mae_acs`` are in pixels.
    NaN where no image has the score, and in a deviation where fewer than two have it.

    Attributes
    ----------
    n_undefined
        Images whose truth has no crystal.
    n_no_prediction
        Images whose truth has crystals and whose prediction has none.
    pq_pooled
        PQ of all images taken together.
    acs
        Of the predictions.
    mae_acs, mre_acs
        Means of the absolute and relative ACS errors per image, not errors of the means.
    """

    n_images: int
    n_undefined: int
    n_no_prediction: int
    pq: float
    pq_std: float
    pq_pooled: float
    sq: float
    rq: float
    aji: float
    aji_std: float
    acs: float
    acs_std: float
    acs_truth: float
    acs_truth_std: float
    mae_acs: float
    mre_acs: float
    mre_acs_std: float

    def to_json(self) -> dict[str, float | None]:
        """Return the fields ready for JSON: None where one is undefined."""
        return {name: nan_to_none(value) for name, value in asdict(self).items()}


def summarize(scores: Sequence[ImageScores]) -> Summary:
    """Return means and standard deviations over images."""
    pq, pq_std = mean_and_std(image.pq for image in scores)
    aji, aji_std = mean_and_std(image.aji for image in scores)
    acs, acs_std = mean_and_std(image.acs_prediction for image in scores)
    acs_truth, acs_truth_std = mean_and_std(image.acs_truth for image in scores)
    mre_acs, mre_acs_std = mean_and_std(image.acs_relative_error for image in scores)
    return Summary(
        n_images=len(scores),
        n_undefined=sum(image.undefined for image in scores),
        n_no_prediction=sum(image.no_prediction for image in scores),
        pq=pq,
        pq_std=pq_std,
        pq_pooled=panoptic_quality(scores),
        sq=mean_and_std(image.sq for image in scores)[0],
        rq=mean_and_std(image.rq for image in scores)[0],
        aji=aji,
        aji_std=aji_std,
        acs=acs,
        acs_std=acs_std,
        acs_truth=acs_truth,
        acs_truth_std=acs_truth_std,
        mae_acs=mean_and_std(image.acs_error for image in scores)[0],
        mre_acs=mre_acs,
        mre_acs_std=mre_acs_std,
    )


def summarize_extras(extras: Sequence[ImageExtras]) -> dict[str, Any]:
    """Return the further scores over images, ready for JSON: None where one is undefined.

    Means of the values per image, undefined ones left out; PQ and recall by length of the crystals of all images
    together.
    """
    means = {name: mean_and_std(getattr(image, name) for image in extras)[0] for name in EXTRA_SCALARS}
    return {**{name: nan_to_none(mean) for name, mean in means.items()}, **by_length_to_json(extras)}


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard deviation (ddof = 1) of the values that are not NaN, whatever their order."""
    defined = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(defined) if defined else math.nan
    return mean, statistics.stdev(defined) if len(defined) > 1 else math.nan
