"""The boundary model (Yu et al. 2022): find the lines between crystals, and what they enclose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystalbench.segmenter import Component, Context, Image, Labels, Segmenter

from . import _foreground
from ._boundary_parameters import BoundaryDecode, BoundaryInfer, BoundaryTrain, ThresholdTrain

if TYPE_CHECKING:
    from crystalbench.data import Sample

    from ._boundary_decoding import Boundaries


class Boundary(Segmenter):
    """An HRNet gives the probability of a boundary; its skeleton, drawn 5 px wide, cuts the grain into crystals.

    The network is trained first; the component ``threshold`` then chooses the threshold on the validation images.
    """

    components = (Component("boundary", BoundaryTrain), Component("threshold", ThresholdTrain, requires=("boundary",)))
    Infer = BoundaryInfer
    Decode = BoundaryDecode

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the network, or choose the threshold."""
        from . import _boundary_threshold, _boundary_training

        if component == "threshold":
            _boundary_threshold.fit_threshold(self.train["threshold"], self.train["boundary"], train, val, context)
        else:
            _boundary_training.fit_boundary(self.train["boundary"], train, val, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the network's checkpoint and the threshold that was chosen."""
        from safetensors.numpy import load_file

        from . import _boundary_decoding, _boundary_prediction  # noqa: F401  (not in the first latency)

        super().load(checkpoints, device)
        train, batch_size = self.train["boundary"], self.infer_parameters.batch_size
        self._predict = _boundary_prediction.load_predictor(
            train.encoder, checkpoints["boundary"], train.input_size, batch_size, device
        )
        chosen = load_file(checkpoints["threshold"])
        self._threshold, self._regrow_px = float(chosen["threshold"][0]), int(chosen["regrow_px"][0])

    def infer(self, image: Image) -> Boundaries:
        """Return the boundaries and the grain of an image, H x W x 3."""
        from ._boundary_decoding import Boundaries

        with self.stage("boundary"):
            probability = self._predict(image)
        with self.stage("foreground"):
            foreground = _foreground.estimate_foreground(image)
        return Boundaries(probability, foreground, self._threshold, self._regrow_px)

    def decode(self, raw: Boundaries, parameters: BoundaryDecode) -> Labels:
        """Return the crystals that boundaries enclose, H x W int32."""
        from . import _boundary_decoding

        threshold = raw.threshold if parameters.threshold is None else parameters.threshold
        regrow_px = raw.regrow_px if parameters.regrow_px is None else parameters.regrow_px
        self.details.update(threshold=threshold, regrow_px=regrow_px)
        with self.stage("post-processing"):
            lines = _boundary_decoding.find_lines(raw.probability, threshold)
            return _boundary_decoding.enclosed(lines, raw.foreground, regrow_px, parameters.min_size)

    def pictures(self, image: Image) -> dict[str, Image]:
        """Return the probability of a boundary."""
        import numpy as np

        grey = np.rint(self._predict(image) * 255).astype(np.uint8)
        return {"boundary": np.repeat(grey[..., None], 3, axis=2)}
