"""Networks for the benchmarks, trained on first use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crystalbench import Sample
from crystalbench.experiment._keys import key_of


@dataclass
class Quiet:
    """The context of a training that nobody watches."""

    folder: Path
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    threads: int = os.cpu_count() or 1
    unpickle: bool = False

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Say nothing."""

    def initial_weights(self, origin: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


def trained(segmenter: Any, train: Sequence[Sample]) -> dict[str, Path]:
    """Return checkpoints of the components of ``segmenter``: an earlier run's, or trained on ``train`` now.

    They lie among the temporary files; a training that was stopped goes on.
    """
    images = [sample.pixel_hash for sample in train]
    found = {}
    for name, parameters in segmenter.train.items():
        key = key_of(train=parameters.model_dump(mode="json"), images=images)
        folder = Path(tempfile.gettempdir()) / f"crystalbench-benchmark-{name}-{key[:12]}"
        segmenter.fit(name, train, [], Quiet(folder))
        found[name] = folder / "checkpoint.safetensors"
    return found
