from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from crystalbench.data import write_image, write_labels

SHARED = Path(os.environ.get("CRYSTALBENCH_SHARED", Path(__file__).parents[2] / "shared"))


@dataclass
class FitContext:
    """The context of a training that nobody watches; it counts the steps."""

    folder: Path
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    threads: int = 2
    unpickle: bool = False
    steps: int = 0
    warnings: list[str] = field(default_factory=list)

    def report(self, step: int, total: int, **scalars: float) -> None:
        self.steps = step

    def initial_weights(self, origin: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run trainings of minutes")


def pytest_configure() -> None:
    # A job in the background of a script ignores it, and so would every process that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Of the terminal that the tests are started from; tables would be as narrow.
    os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="minutes of training; run with --run-slow"))


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A data set of eight images with bright squares, one to eight of them."""
    return make_squares(tmp_path / "squares", 8)


def make_squares(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(1, count + 1):
        labels = np.zeros((48, 64), np.int32)
        for crystal in range(number):
            y, x = divmod(crystal, 4)
            labels[4 + 16 * y : 14 + 16 * y, 4 + 15 * x : 14 + 15 * x] = crystal + 1
        image = rng.integers(0, 40, (48, 64, 3)) + np.where(labels[..., None] > 0, 180, 20)
        write_image(folder / "images" / f"square{number}.png", image.astype(np.uint8))
        write_labels(folder / "labels", f"square{number}", labels)
    return folder
