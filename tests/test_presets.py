"""Every preset of every method: one training step and one prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import FitContext

from crystalbench import Sample, Segmenter
from crystalbench.config import PRESETS, Preset, Tree
from crystalbench.data import find_dataset
from crystalbench.registry import find_method, find_methods

ONE_STEP = {"epochs": 1, "batch_size": 1, "crops_per_image": 1, "warmup_epochs": 0}


def one_step(values: Tree) -> Tree:
    """Return the values of a preset with so much training that one image makes one step of it."""
    train = {
        component: {name: ONE_STEP.get(name, value) for name, value in parameters.items()}
        for component, parameters in values["train"].items()
    }
    return {**values, "train": train}


def fit_all(segmenter: Segmenter, sample: Sample, folder: Path, device: str = "cpu") -> dict[str, Path]:
    """Train all components on one image, for one step each; return their checkpoints."""
    checkpoints: dict[str, Path] = {}
    for component in segmenter.components:
        (folder / component.name).mkdir(parents=True)
        context = FitContext(folder / component.name, dict(checkpoints), device=device)
        segmenter.fit(component.name, [sample], [sample], context)
        assert context.steps == 1
        checkpoints[component.name] = context.folder / "checkpoint.safetensors"
    return checkpoints


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [name for name, method in find_methods().items() if not method.written.required])
def test_one_step_and_one_prediction(name: str, preset: Preset, tmp_path: Path) -> None:
    sample = find_dataset("demo").split().train[0]
    method = find_method(name)
    segmenter = method.build(one_step(method.preset(preset)))
    segmenter.load(fit_all(segmenter, sample, tmp_path), "cpu")
    labels = segmenter.predict_sample(sample)
    assert labels.shape == sample.label.shape
