"""What the boundary model can be told; imports no network library.

Defaults are those of Neubauer et al. 2024, section IV-B ("Boundary model").
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from crystalbench.segmenter import Parameters

from ._parameters import ScaleRange, ScheduleTrain

Threshold = Annotated[float, Field(gt=0, lt=1)]


class BoundaryTrain(ScheduleTrain):
    """Training of the boundary network.

    Parameters
    ----------
    encoder
        The HRNet, by its name in timm.
    init
        ``imagenet`` (the encoder's published weights), ``random``, or a file of weights of the encoder or of the
        whole network.
    input_size
        Side of the square crops, and of the windows in prediction, in pixels.
    scale_range
        Random scale of the crops.
    """

    encoder: Literal["hrnet_w18", "hrnet_w18_small", "hrnet_w18_small_v2"] = "hrnet_w18"
    init: str = "imagenet"
    input_size: Annotated[int, Field(ge=64, multiple_of=32)] = 512
    scale_range: ScaleRange = (1.0, 1.0)
    epochs: PositiveInt = 300
    batch_size: PositiveInt = 16
    lr: PositiveFloat = 0.0075


class ThresholdTrain(Parameters):
    """Choice of the boundary threshold on the validation images.

    Parameters
    ----------
    criterion
        ``cldice`` (the paper's): the centre-line Dice coefficient of the boundaries; ``pq``: the panoptic quality
        of the crystals that they enclose.
    candidates
        Thresholds to choose from; of equals the first.
    """

    criterion: Literal["cldice", "pq"] = "cldice"
    candidates: Annotated[tuple[Threshold, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5)


class BoundaryInfer(Parameters):
    """Prediction in windows of the network's input that overlap by half.

    Parameters
    ----------
    batch_size
        Windows in one pass.
    """

    batch_size: PositiveInt = 1


class BoundaryDecode(Parameters):
    """From the probability of boundaries to crystals.

    Parameters
    ----------
    threshold
        Probability from which on a pixel lies on a boundary; null for the one chosen on the validation images.
    regrow_px
        Pixels that crystals are grown back over the boundary, which is 5 px wide however thin the line between
        labels is; null for the mean of (5 - line) / 2 over the lines of the training labels, rounded.
    min_size
        A crystal of fewer pixels, before it is grown, is dropped.
    """

    threshold: Threshold | None = None
    regrow_px: Annotated[int, Field(ge=0)] | None = None
    min_size: Annotated[int, Field(ge=0)] = 15
