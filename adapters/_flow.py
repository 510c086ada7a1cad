"""What the flow methods have in common: scales, their fusion, and the way from a flow field to labels.

A *field* is 3 x H x W float32: flow along y and x (unit vectors times 5, as Cellpose's network gives them)
and the logit of the foreground.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Bounded
from pydantic import model_validator

from crystalbench.segmenter import Component, Context, Image, Labels, Parameters, Segmenter

from ._parameters import CpTrain

if TYPE_CHECKING:
    from torch import Tensor

    from crystalbench.data import Sample

Field = NDArray[np.float32]

if TYPE_CHECKING:
    RawField = Field | Tensor
    """What ``infer`` hands to ``decode``: an array on a CPU, a tensor on a GPU."""

Factor = Annotated[float, Bounded(gt=0, le=4)]

INPUT_FACTORS = ("input", "2*input")
"""Resize factors that follow from the sides of image and network."""

CP = Component("cp", CpTrain)
"""The flow network: one checkpoint serves all flow methods."""


class Tiles(Parameters):
    """How a network sees an image that is larger than its input."""

    tile_overlap: float = Bounded(0.1, ge=0.05, le=0.5)
    batch_size: int = Bounded(8, ge=1)


class MultiScale(Tiles):
    """Resize factors r_1 ... r_N in ascending order (paper, section III-B).

    ``"input"`` as the first one resizes the longer side to the network's input; where the image is not
    larger than that, ``small_image_factor`` takes its place (section IV-B). ``"2*input"`` behind it is twice that
    factor (Table I).
    """

    resize_factors: tuple[Literal["input", "2*input"] | Factor, ...] = ("input", 0.5, 0.75, 1.0)
    small_image_factor: Factor = 0.25

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        names, numbers = names_and_numbers(self.resize_factors)
        if not self.resize_factors or self.resize_factors[: len(names)] != INPUT_FACTORS[: len(names)]:
            raise ValueError(
                'resize_factors needs at least one factor; only the first may be "input", the next then "2*input"'
            )
        if list(numbers) != sorted(set(numbers)):
            raise ValueError("resize_factors must ascend: the lowest resolution comes first")
        return self


class FlowDecode(Parameters):
    """Post-processing of Cellpose (Stringer et al. 2021).

    ``foreground_threshold`` is the paper's h, on the scale of logits; a crystal whose flow differs by more
    than ``flow_threshold`` (mean squared error) from the one its shape would have is dropped, 0 keeps all;
    so is one of fewer than ``min_size`` pixels. ``backend`` is how: ``reference`` is Cellpose's own code, ``fast``
    gives nearly the same masks in a small part of its time.
    """

    backend: Literal["fast", "reference"] = "fast"
    foreground_threshold: float = 0.0
    flow_threshold: float = Bounded(0.4, ge=0)
    min_size: int = Bounded(15, ge=0)


class FlowSegmenter(Segmenter):
    """A method around the flow network ``cp``; subclasses say which scales it sees and how they are fused."""

    components: ClassVar[tuple[Component, ...]] = (CP,)
    Infer = Tiles
    Decode = FlowDecode

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the flow network."""
        from . import _training

        _training.fit_cp(self.train["cp"], train, val, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the flow network's checkpoint."""
        from . import _fusion, _networks, _tiling, _weights  # noqa: F401  (not in the first latency)

        super().load(checkpoints, device)
        decoder(self.decode_parameters, device)
        network = _networks.cp_network(self.train["cp"].width)
        _weights.load_checkpoint(checkpoints["cp"], network)
        self.cp = _tiling.tiled(network, self.train["cp"].input_size, self.infer_parameters, device)

    def fields(self, image: Image, factors: Sequence[float]) -> Tensor:
        """Predict ``image`` (H x W x 3) resized by N factors; N x 3 x H x W at its own resolution, on the device."""
        with self.stage("cp"):
            return self.cp.at_scales(image, factors)

    def decode(self, raw: RawField, parameters: FlowDecode) -> Labels:
        """Follow the flow of a field (3 x H x W) to H x W int32 labels."""
        decode = decoder(parameters, self.device)
        with self.stage("post-processing"):
            return decode(raw, parameters, self.device)

    def pictures(self, image: Image) -> dict[str, Image]:
        """Return the flow as a colour wheel and the probability of foreground."""
        field = to_host(self.infer(image))
        return {"flow": flow_picture(field), "foreground": grey_picture(1 / (1 + np.exp(-field[2])))}


def decoder(parameters: FlowDecode, device: str) -> Callable[[RawField, FlowDecode, str], Labels]:
    """Return what turns a field (3 x H x W) into H x W int32 labels on a device."""
    if parameters.backend == "reference":
        from . import _decoding

        return _decoding.decode_reference
    if device == "cpu":
        from . import _fast_decoding

        return _fast_decoding.decode_fast
    from . import _device_decoding

    return _device_decoding.decode_on_device


class MultiScaleSegmenter(FlowSegmenter):
    """A method that sees an image at N scales."""

    Infer = MultiScale

    def factors(self, image: Image) -> tuple[float, ...]:
        """Return the resize factors r_1 ... r_N that an image (H x W x 3) is seen at."""
        return scale_factors(self.infer_parameters, image.shape, self.train["cp"].input_size)

    def scales(self, image: Image) -> Tensor:
        """Predict an image (H x W x 3) at each scale, N x 3 x H x W at its own resolution, on the device."""
        factors = self.factors(image)
        self.details["resize_factors"] = factors
        return self.fields(image, factors)


def scale_factors(parameters: MultiScale, shape: tuple[int, ...], side: int) -> tuple[float, ...]:
    """Return r_1 ... r_N for an image of ``shape`` (height, width, ...) and a network of ``side`` px.

    r_1 = side / longer side; ``small_image_factor`` where the image is not larger than the input; half of
    the first number where it would not be below that. ``"2*input"`` is 2 r_1; halfway from r_1 to the first number
    where it would not be below that.
    """
    names, numbers = names_and_numbers(parameters.resize_factors)
    if not names:
        return numbers
    longer = max(shape[:2])
    first = side / longer if longer > side else parameters.small_image_factor
    if numbers and first >= numbers[0]:
        first = numbers[0] / 2
    if names == INPUT_FACTORS:
        second = 2 * first if not numbers or 2 * first < numbers[0] else (first + numbers[0]) / 2
        return (first, second, *numbers)
    return (first, *numbers)


def names_and_numbers(factors: Sequence[str | float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the resize factors that depend on the image, and those that do not."""
    names = tuple(factor for factor in factors if isinstance(factor, str))
    return names, tuple(factor for factor in factors if not isinstance(factor, str))


def as_raw(field: Tensor) -> RawField:
    """Return a field for ``decode``: on a CPU an array that shares its memory; what is on a GPU stays there."""
    return to_host(field) if field.device.type == "cpu" else field


def to_host(field: RawField) -> Field:
    """Return a field as an array."""
    array: Field = field if isinstance(field, np.ndarray) else field.cpu().numpy()
    return array


def flow_picture(field: Field) -> Image:
    """Return the flow of a field (3 x H x W) in Cellpose's colours, H x W x 3."""
    from cellpose import plot

    return np.asarray(plot.dx_to_circ(field[:2]))


def grey_picture(values: Field) -> Image:
    """Return H x W values between 0 and 1 as an H x W x 3 picture."""
    grey = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
