"""Training the boundary network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalbench.evaluation import centre_lines, widen_lines

from . import _augmentation, _hrnet, _loop, _weights
from ._boundary_losses import BoundaryObjective
from ._boundary_parameters import BoundaryTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context


class BoundaryCrops(_loop.Crops):
    """Crops of the images that show crystals; the boundaries are drawn after resampling, so that they are 5 px wide."""

    def __init__(self, samples: Sequence[Sample], parameters: BoundaryTrain) -> None:
        self.parameters = parameters
        self.images: list[NDArray[np.uint8]] = []
        self.labels: list[NDArray[np.int32]] = []
        for sample in samples:
            label = sample.label
            if label.any():
                self.images.append(sample.image)
                self.labels.append(label)

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, image: int, rng: np.random.Generator) -> _loop.Crop:
        """Return the lit crop and its boundaries, side x side float32 of 0 and 1."""
        parameters, pixels = self.parameters, self.images[image]
        side = parameters.input_size
        matrix = _augmentation.random_warp(rng, pixels.shape[:2], side, parameters.scale_range)
        target = widen_lines(centre_lines(_augmentation.warp_labels(self.labels[image], matrix, side)))
        crop = _augmentation.warp_image(pixels, matrix, side)
        lit = _augmentation.random_light(rng, crop, parameters.brightness, parameters.contrast)
        return _augmentation.normalize(lit), target.astype(np.float32)


def fit_boundary(parameters: BoundaryTrain, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
    """Train the network of Yu et al. 2022 as section IV-B of Neubauer et al. 2024 says ("Boundary model").

    Leaves ``checkpoint.safetensors`` in ``context.folder``. May be killed and called again: it goes on after
    the last saved epoch and ends with bitwise the same weights (on a CPU, with as many threads).

    Raises
    ------
    DataError
        Where no image shows a crystal, or ``init`` is a file that cannot be read.
    ConfigurationError
        Where the loss is no longer finite, or ``init`` does not fit.
    """
    if _loop.is_finished(context):
        return
    _loop.seed_weights(context)
    network, origin = _start(parameters, context)
    crops, validation = BoundaryCrops(train, parameters), BoundaryCrops(val, parameters)
    objective = BoundaryObjective(network)
    _loop.Training("boundary", objective, crops, validation, parameters, context, origin).run()


def _start(parameters: BoundaryTrain, context: Context) -> tuple[_hrnet.BoundaryNetwork, str]:
    """Return the network to train and where its weights started; a resumed training has them in its state."""
    if parameters.init not in ("imagenet", "random"):
        network = _hrnet.BoundaryNetwork(parameters.encoder)
        return network, _weights.start_from(Path(parameters.init), network, context)
    resumed = _loop.resumed_origin(context)
    network, origin = _hrnet.initial_network(parameters.encoder, parameters.init == "imagenet" and resumed is None)
    if resumed is not None:
        return network, resumed
    if origin != parameters.init:
        context.warn(f"the ImageNet weights of {parameters.encoder} could not be had; it starts at random")
    return network, origin
