"""Run with ``pytest test_mymethod.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crystalbench import evaluate
from crystalbench.registry import find_method
from crystalbench.testing import CHECKS, Suite

ADAPTER = str(Path(__file__).with_name("mymethod.py"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Return the conformance suite: the checks share one training."""
    return Suite("mymethod", tmp_path_factory.mktemp("mymethod"), [ADAPTER])


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(check: str, suite: Suite) -> None:
    """The same checks as ``crystalbench check mymethod --adapter mymethod.py``."""
    suite.require(check)


def test_two_bright_squares_are_two_crystals() -> None:
    """A test of your own."""
    truth = np.zeros((40, 60), np.int32)
    truth[5:25, 5:25], truth[10:35, 32:55] = 1, 2
    image = np.repeat(np.where(truth > 0, 200, 30)[..., None], 3, axis=2).astype(np.uint8)
    method = find_method("mymethod", [ADAPTER])
    assert evaluate(truth, method.build(method.preset("quick")).predict(image)).pq > 0.9
