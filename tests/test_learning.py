"""Whether the whole chain can learn: four images by heart, up to a share of what perfect predictions would give."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from oracles import oracle_labels

from crystalbench import evaluate, open_dataset
from crystalbench.cli import main
from crystalbench.config import override, parse_settings
from crystalbench.data import find_dataset, write_split
from crystalbench.registry import find_method

SHARE = 0.85
"""Of the ceiling that a method must reach."""

CP = ["train.cp.epochs=80", "train.cp.crops_per_image=16"]
STILL = ["train.scale_range=[1,1]", "train.brightness=[0,0]", "train.contrast=[0,0]"]
WHOLE = ["infer.mode=resized", "train.crop_scale=input", "train.input_size=128", "train.turn=false", *STILL]
STEPS = ["train.epochs=400", "train.warmup_epochs=10", "train.crops_per_image=4", "train.batch_size=4"]
BY_HEART = {
    "cellpose": CP,
    "cellpose-multiscale": CP,
    "cellpose-noresize": CP,
    "sima": [*CP, "train.attention.epochs=80", "train.attention.crops_per_image=16"],
    "boundary": [
        "train.boundary.epochs=50",
        "train.boundary.crops_per_image=32",
        "train.boundary.lr=0.004",
        "train.threshold.criterion=pq",
    ],
    "rtmdet": [*STILL, "train.epochs=60", "train.crops_per_image=16", "train.batch_size=2"],
    "maskformer": [*WHOLE, *STEPS, "train.queries=30"],
    "oneformer": [*WHOLE, *STEPS, "train.queries=34", "train.points=1024"],
}
"""The settings, over ``quick``, that a method learns four images with."""


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four images of class 1 of demo with the fewest crystals, 11 to 29; each trains, validates and tests."""
    demo = find_dataset("demo")
    easy = [sample for sample in demo.samples if demo.difficulty(sample) == 1 and sample.grain_path is None]
    chosen = sorted(easy, key=lambda sample: len(np.unique(sample.label)))[:4]
    folder = tmp_path_factory.mktemp("learning") / "by-heart"
    for sample in chosen:
        for file in (sample.image_path, sample.label_path):
            (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.parent.name)
    (folder / "dataset.yaml").write_text(f"line_px: {demo.line_px}\nclass_px: {demo.class_px}\n")
    write_split(folder, "fixed", {sample.name: ["train", "val", "test"] for sample in chosen})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all methods, so that those of one family share the training of their flow network."""
    return tmp_path_factory.mktemp("learning") / "runs"


def ceiling(name: str, settings: list[str], folder: Path) -> float:
    """Return the PQ of perfect predictions, with the same settings."""
    method = find_method(name)
    changes = parse_settings(settings, [name])[name]
    segmenter = method.build(override(method.config.values("quick"), changes, list(method.components)))
    samples = open_dataset(folder).samples
    return float(np.mean([evaluate(sample.label, oracle_labels(segmenter, sample)).pq for sample in samples]))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", BY_HEART)
def test_four_images_of_class_1_are_learnt_by_heart(
    name: str, by_heart: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, settings = time.monotonic(), BY_HEART[name]
    run = ["run", "--method", name, "--data", str(by_heart), "--out", str(runs)]
    assert main([*run, *(part for setting in settings for part in ("--set", setting))]) == 0
    capsys.readouterr()
    main(["leaderboard", "--runs", str(runs / by_heart.name / name), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    best = ceiling(name, settings, by_heart)
    with capsys.disabled():
        print(f"\n{name}: PQ {row['pq']:.3f}, C {best:.3f}, {time.monotonic() - start:.0f} s, {' '.join(settings)}")
    assert row["n_images"] == 4
    assert row["pq"] >= SHARE * best
