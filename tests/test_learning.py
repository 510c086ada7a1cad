"""Whether the whole chain can learn: four images by heart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crystalbench.cli import main
from crystalbench.data import find_dataset, write_split

pytest.importorskip("cellpose")


@pytest.fixture
def by_heart(tmp_path: Path) -> Path:
    """The first four images of class 1 of demo; each trains, validates and tests."""
    demo = find_dataset("demo")
    chosen = [sample for sample in demo.samples if demo.difficulty(sample) == 1 and sample.grain_path is None][:4]
    folder = tmp_path / "by-heart"
    for sample in chosen:
        for file in (sample.image_path, sample.label_path):
            (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.parent.name)
    (folder / "dataset.yaml").write_text(f"line_px: {demo.line_px}\nclass_px: {demo.class_px}\n")
    write_split(folder, "fixed", {sample.name: ["train", "val", "test"] for sample in chosen})
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_images_of_class_1_are_learnt_by_heart(
    by_heart: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--method", "cellpose", "--data", str(by_heart), "--out", str(tmp_path / "runs")]
    steps = ["--set", "train.cp.epochs=80", "--set", "train.cp.crops_per_image=16"]
    assert main([*run, *steps, "--set", "train.cp.scale_range=[0.75,1.25]"]) == 0
    capsys.readouterr()
    main(["leaderboard", "--runs", str(tmp_path / "runs"), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    print(f"PQ {row['pq']:.3f}")
    assert row["n_images"] == 4
    assert row["pq"] >= 0.9
