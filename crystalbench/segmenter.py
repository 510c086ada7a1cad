"""The interface that every method implements."""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from crystalbench._devices import synchronize

if TYPE_CHECKING:
    from crystalbench.data import Sample

Image = NDArray[np.uint8]
"""H x W x 3 uint8, RGB; pixels outside the grain of interest are zero."""

Labels = NDArray[np.int32]
"""H x W int32 label map; 0 is background, every other value one crystal."""


class Parameters(BaseModel):
    """Base of all parameter models: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodInfo(Parameters):
    """What a method is: the columns of the leaderboard that no run has to fill.

    ``parameters`` counts those of the ``paper`` preset; ``input_size`` is the network's, in pixels; ``gpus`` is the
    share of one GPU that a job takes where it runs on one: two jobs of 0.5 run there side by side;
    ``image_rescaling``, ``multi_scale`` and ``fusion`` are the model settings of the paper's Table II.
    """

    name: str
    title: str
    paper: str | None = None
    licence: str
    extra: str | None = None
    parameters: int = 0
    input_size: int | None = None
    needs_gpu: bool = False
    gpus: float = Field(default=1.0, gt=0, le=1)
    control: bool = False
    image_rescaling: bool = False
    multi_scale: bool = False
    fusion: str | None = None


@dataclass(frozen=True)
class Component:
    """A part of a method that is trained, once for all methods that share it.

    ``fit_version`` goes up whenever the training itself changes: it is part of the checkpoint's identity,
    the source code is not. ``requires`` names components whose checkpoints this one's training reads.
    """

    name: str
    parameters: type[Parameters]
    fit_version: int = 1
    requires: tuple[str, ...] = ()


class Context(Protocol):
    """What a training is told, and whom it tells how it goes.

    ``unpickle`` says that the user trusts files of weights that need unpickling, which can run code.
    """

    seed: int
    device: str
    threads: int
    folder: Path
    checkpoints: Mapping[str, Path]
    unpickle: bool

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Say that ``step`` of ``total`` steps are done; ``scalars`` (losses, rates) are logged."""

    def initial_weights(self, origin: str) -> None:
        """Say where the weights started: random, imagenet, ade20k, coco or ``file:<sha12>``.

        What trains no network need not say anything.
        """

    def warn(self, message: str) -> None:
        """Put a warning into the log and into every record that uses this training."""


class Segmenter(ABC):
    """A method: parameters in, label maps out.

    Building one is cheap: no weights, no device, no heavy import. The smallest method overrides
    :meth:`predict` alone. A method that is trained names its ``components`` and overrides :meth:`fit` and
    :meth:`load`. One whose post-processing has parameters overrides :meth:`infer` and :meth:`decode`
    in place of :meth:`predict`.

    Parameters
    ----------
    train
        For each component the model of its parameters; these need a training to take effect.
    infer
        Parameters that need a forward pass (resize factors, windows).
    decode
        Parameters that need neither (thresholds).

    Attributes
    ----------
    stages
        Seconds by stage of the current prediction, see :meth:`stage`.
    details
        What a prediction found out or chose for its image (a resize factor, an estimated size), as plain JSON;
        the record keeps it for each image.
    """

    info: ClassVar[MethodInfo]
    components: ClassVar[tuple[Component, ...]] = ()
    Infer: ClassVar[type[Parameters]] = Parameters
    Decode: ClassVar[type[Parameters]] = Parameters

    def __init__(self, *, train: Mapping[str, Parameters], infer: Parameters, decode: Parameters) -> None:
        self.train: Mapping[str, Any] = train
        self.infer_parameters: Any = infer
        self.decode_parameters: Any = decode
        self.device = "cpu"
        self.stages: dict[str, float] = {}
        self.details: dict[str, Any] = {}

    def fit(self, component: str, train: Sequence[Sample], val: Sequence[Sample], context: Context) -> None:
        """Train one component and leave ``checkpoint.safetensors`` in ``context.folder``.

        May be killed and called again at any time; what it needs to go on it keeps in the same folder.
        """
        raise NotImplementedError(f"{type(self).__name__} has components but no fit()")

    def load(self, checkpoints: Mapping[str, Path], device: str) -> None:
        """Make ready to predict on ``device`` with the checkpoint of each component."""
        self.device = device

    def infer(self, image: Image) -> Any:
        """Run the network: everything that no decode parameter changes."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither predict() nor infer()")

    def decode(self, raw: Any, parameters: Any) -> Labels:
        """Turn what :meth:`infer` returned into labels. Leaves ``raw`` as it was."""
        raise NotImplementedError(f"{type(self).__name__} overrides infer() but not decode()")

    def predict(self, image: Image) -> Labels:
        """Segment one micrograph (H x W x 3 uint8) into H x W int32 labels."""
        return self.decode(self.infer(image), self.decode_parameters)

    def predict_sample(self, sample: Sample) -> Labels:
        """Segment one sample of a data set. Control methods alone may look at ``sample.label``."""
        return self.predict(sample.image)

    def reads(self, sample: Sample) -> Sequence[Path]:
        """Return the files besides those of ``sample`` that its labels depend on; where one changes, so do they.

        Not asked of a method that runs in an environment of its own.
        """
        return ()

    def latency(self, measured: float) -> float | None:
        """Return the seconds of a prediction that took ``measured``; what ran elsewhere tells its own, or None."""
        return measured

    def pictures(self, image: Image) -> dict[str, Image]:
        """Pictures of intermediate results by title (flow fields, attention maps), for the overlays."""
        return {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the stage ``name`` of the latency."""
        synchronize(self.device)
        start = time.perf_counter_ns()
        yield
        synchronize(self.device)
        self.stages[name] = self.stages.get(name, 0.0) + (time.perf_counter_ns() - start) / 1e9
