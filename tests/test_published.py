"""The published board: its label maps are what its scores were computed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystalbench import evaluate
from crystalbench.data import find_dataset, read_labels
from crystalbench.evaluation import evaluate_extras
from crystalbench.experiment import Record

BOARD = Path(__file__).parents[1] / "leaderboard"
RECORDS = [file for file in sorted((BOARD / "records").glob("*/*/*.json")) if ".latency" not in file.name]


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.parent.name)
def test_label_maps_give_the_published_scores(file: Path) -> None:
    record = Record.model_validate_json(file.read_bytes())
    folder = BOARD / "labels" / file.relative_to(BOARD / "records").with_suffix("")
    truths = {sample.name: sample for sample in find_dataset(record.dataset.name).samples}
    assert {path.stem for path in folder.iterdir()} == {image.image for image in record.images}
    for image in record.images:
        truth = truths[image.image].label
        (labels,) = folder.glob(f"{image.image}.*")
        found = evaluate_extras(truth, read_labels(labels))
        assert found.scores.to_row() == evaluate(truth, read_labels(labels)).to_row() == image.scores
        assert image.extras == found.to_row()
