"""How far a model's sizes can be trusted: by what it was off on the images that it was tested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crystalbench.evaluation import ImageScores
from crystalbench.experiment import ImageRecord

_TAIL = 40
"""One image in so many is left out at either end: an interval of 95 %."""


@dataclass(frozen=True)
class Tolerance:
    """Between which factors of a measured ACS the true one lies.

    Parameters
    ----------
    low, high
        The factors.
    coverage
        Share of new images of which that holds, as a fraction.
    n
        Test images that it is known from.
    """

    low: float
    high: float
    coverage: float
    n: int


def tolerance(images: Iterable[ImageRecord]) -> Tolerance | None:
    """Return the distribution-free prediction interval of true over measured ACS (Wilks 1941).

    The ratio of a new image is as likely to fall into any of the n + 1 gaps between the sorted ratios of n test images.
    So the k-th smallest and the k-th largest of them hold it with the probability 1 - 2k / (n + 1), where the new image
    is one like those of the test: nothing is assumed of how errors are distributed. k is the largest for 95 %; with
    fewer than 39 test images that cannot be reached, and k = 1 gives what can.

    Parameters
    ----------
    images
        Of the record of the test. Those without crystals, in truth or in prediction, are left out.

    Returns
    -------
    Tolerance or None
        None where fewer than two images are left.
    """
    scores = [ImageScores.from_row(image.scores) for image in images if image.scores]
    ratios = sorted(one.acs_truth / one.acs_prediction for one in scores if one.n_truth and one.n_prediction)
    n = len(ratios)
    if n < 2:
        return None
    k = max(1, (n + 1) // _TAIL)
    return Tolerance(low=ratios[k - 1], high=ratios[-k], coverage=1 - 2 * k / (n + 1), n=n)
