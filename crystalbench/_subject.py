"""What the conformance suite works on: a method, small micrographs, and trainings of seconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tifffile
from numpy.typing import NDArray

from crystalbench.data import Sample, open_dataset, write_image, write_labels
from crystalbench.data._synthetic import MicrographSpec, Population, make_micrograph
from crystalbench.registry import find_method
from crystalbench.segmenter import Component, Segmenter

MICROGRAPH_PX = (96, 128)
"""Height and width of the made micrographs."""

ODD_SIZES = ((1, 1), (1, 37), (37, 1), (2, 3), (65, 130))
"""Heights and widths in pixels, of noise, that no network was made for."""

CHECKPOINT = "checkpoint.safetensors"

_N_TRAIN, _N_VAL = 4, 2
_CRYSTALS = MicrographSpec((Population(4, 40.0), Population(10, 18.0)))
_THREADS = 1
_SECONDS_A_LOOK = 60.0


class Interrupted(BaseException):
    """Ends a training in the middle; no ``except Exception`` of the method takes it for an error of its own."""


@dataclass
class Rehearsal:
    """The context of a training that is interrupted when it reports the step ``stop_at``."""

    folder: Path
    checkpoints: Mapping[str, Path]
    stop_at: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = _THREADS
    unpickle: bool = False
    steps: list[tuple[int, int]] = field(default_factory=list)

    def report(self, step: int, total: int, **scalars: float) -> None:
        self.steps.append((step, total))
        if step == self.stop_at:
            raise Interrupted

    def initial_weights(self, origin: str) -> None: ...

    def warn(self, message: str) -> None: ...


@dataclass(frozen=True)
class Trained:
    """A method after its trainings: the object that did them, its checkpoints, and the steps it reported."""

    segmenter: Segmenter
    checkpoints: dict[str, Path]
    steps: dict[str, list[tuple[int, int]]]


class Subject:
    """A method under examination.

    Parameters
    ----------
    name, adapters
        As for :func:`~crystalbench.registry.find_method`.
    folder
        Where micrographs and trainings are put.
    """

    def __init__(self, name: str, folder: Path, adapters: Sequence[str] = ()) -> None:
        self.method = find_method(name, adapters)
        self.adapters = tuple(adapters)
        self.folder = folder

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """Made micrographs, trained on or not, and the images of the checks by name."""
        root = self.folder / "micrographs"
        _write_micrographs(root)
        return {sample.name: sample for sample in open_dataset(root).samples}

    @property
    def micrograph(self) -> Sample:
        """A micrograph like those of the training, but none of them."""
        return self.samples[f"micrograph-{_N_TRAIN + _N_VAL}"]

    @property
    def noise(self) -> Sample:
        """An image of another size than the micrographs."""
        height, width = ODD_SIZES[-1]
        return self.samples[f"{height}x{width}"]

    @cached_property
    def trained(self) -> Trained:
        """The method after its first training."""
        return self.train("first")

    def train(self, folder: str) -> Trained:
        """Train every component with the values of ``check`` in a folder of its own."""
        segmenter = self.build()
        checkpoints: dict[str, Path] = {}
        steps: dict[str, list[tuple[int, int]]] = {}
        for component in segmenter.components:
            place = self.folder / folder / component.name
            steps[component.name] = self.fit(component, place, checkpoints, segmenter)
            checkpoints[component.name] = place / CHECKPOINT
        return Trained(segmenter, checkpoints, steps)

    def fit(
        self,
        component: Component,
        folder: Path,
        checkpoints: Mapping[str, Path],
        segmenter: Segmenter | None = None,
        stop_at: int | None = None,
    ) -> list[tuple[int, int]]:
        """Train one component, to its end or until it reports the step ``stop_at``; return what it reported."""
        folder.mkdir(parents=True, exist_ok=True)
        required = {name: checkpoints[name] for name in component.requires}
        context = Rehearsal(folder, required, stop_at)
        made = [self.samples[f"micrograph-{number}"] for number in range(_N_TRAIN + _N_VAL)]
        with suppress(Interrupted):
            (segmenter or self.build()).fit(component.name, made[:_N_TRAIN], made[_N_TRAIN:], context)
        return context.steps

    def build(self) -> Segmenter:
        """Build the method with the values of ``check``."""
        return self.method.build(self.method.config.tiny_values())

    def load(self, checkpoints: Mapping[str, Path] | None = None) -> Segmenter:
        """Build the method and load ``checkpoints``, those of the first training where none are given."""
        segmenter = self.build()
        segmenter.load(self.trained.checkpoints if checkpoints is None else checkpoints, "cpu")
        return segmenter

    @cached_property
    def segmenter(self) -> Segmenter:
        """The method, ready to predict."""
        return self.load()


@contextmanager
def hurried_clock() -> Iterator[None]:
    """Let a minute pass at every look at the clock.

    Trainings that keep a state every few seconds keep one whenever they can, so that one of a second in all is
    resumed from a state too.
    """
    ticks = itertools.count(time.monotonic(), _SECONDS_A_LOOK)
    with patch("time.monotonic", lambda: next(ticks)):
        yield


def _write_micrographs(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(_N_TRAIN + _N_VAL + 1):
        made = make_micrograph(*MICROGRAPH_PX, rng, _CRYSTALS)
        _write(root, f"micrograph-{number}", made.image, made.label)
    for height, width in ODD_SIZES:
        _write(root, f"{height}x{width}", rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
    for name, value in (("black", 0), ("white", 255)):
        _write(root, name, np.full((*MICROGRAPH_PX, 3), value, np.uint8))
    grey = made.image[..., 1]
    _write(root, "grey", grey)
    write_labels(root / "labels", "sixteen-bit", made.label)
    tifffile.imwrite(root / "images" / "sixteen-bit.tif", grey.astype(np.uint16) * np.uint16(257))


def _write(root: Path, name: str, image: NDArray[np.uint8], label: NDArray[np.int32] | None = None) -> None:
    write_image(root / "images" / f"{name}.png", image)
    write_labels(root / "labels", name, np.ones(image.shape[:2], np.int32) if label is None else label)
