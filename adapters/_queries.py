"""What MaskFormer and OneFormer have in common: queries, each with a score and a mask, become crystals."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalbench.segmenter import Context, Image, Labels, Segmenter

from ._query_parameters import QueryDecode, QueryInfer

if TYPE_CHECKING:
    from crystalbench.data import Sample

    from ._query_networks import Library


@dataclass(frozen=True)
class Answer:
    """What the queries say about a window of an image.

    Attributes
    ----------
    window
        Rows and columns of the image.
    cells
        How many cells of the network's output lie along one pixel of the image, down and across.
    scores
        Q float32, the probability that a query shows a crystal.
    logits
        Q x h x w float16, the masks. Cell (0, 0) begins where the window does; what lies beyond it is padding.
    """

    window: tuple[slice, slice]
    cells: tuple[float, float]
    scores: NDArray[np.float32]
    logits: NDArray[np.float16]


@dataclass(frozen=True)
class Answers:
    """What the queries say about an image of ``shape`` (height, width)."""

    shape: tuple[int, int]
    windows: tuple[Answer, ...]


class QuerySegmenter(Segmenter):
    """A network of transformers whose queries become crystals; it has one component."""

    Infer = QueryInfer
    Decode = QueryDecode

    @abstractmethod
    def library(self) -> Library:
        """Return what is built from transformers; imports it."""

    @property
    def parameters(self) -> Any:
        """The training parameters of the only component."""
        (parameters,) = self.train.values()
        return parameters

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train the network."""
        from . import _query_training

        _query_training.fit(component, self.library(), self.parameters, train, val, context)

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Read the network's checkpoint."""
        from . import _query_decoding, _weights, _windows  # noqa: F401  (not in the first latency)

        super().load(checkpoints, device)
        (checkpoint,) = checkpoints.values()
        network = _weights.load_checkpoint(checkpoint, self.library().network(self.parameters))
        self._network: Any = network.to(device)

    def infer(self, image: Image) -> Answers:
        """Ask the network; warn where all queries of a window show crystals, as there may be more."""
        with self.stage("network"):
            answers = Answers((image.shape[0], image.shape[1]), tuple(self._answers(image)))
        used = [int((answer.scores > 0.5).sum()) for answer in answers.windows]
        exhausted = max(used) >= self.parameters.queries
        self.details.update(windows=len(used), most_queries_used=max(used), queries_exhausted=exhausted)
        if exhausted:
            warnings.warn(f"all {max(used)} queries show crystals; there may be more than can be found", stacklevel=2)
        return answers

    def _answers(self, image: Image) -> Iterator[Answer]:
        from . import _query_networks

        side, settings = self.parameters.input_size, self.infer_parameters
        shown = {"resized": _query_networks.whole, "windows": _query_networks.overlapping}[settings.mode]
        return _query_networks.ask(self._network, list(shown(image, side)), settings.batch_size, self.device)

    def decode(self, raw: Answers, parameters: QueryDecode) -> Labels:
        """Turn queries into H x W int32 labels."""
        from . import _query_decoding

        with self.stage("post-processing"):
            return _query_decoding.decode(raw, parameters)
