"""What the experiments of a study have left: records, the board's rows made of them, and label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from crystalbench.data import Sample, read_labels
from crystalbench.evaluation import ImageScores
from crystalbench.experiment import Experiment, Record
from crystalbench.experiment._predict import labels_file
from crystalbench.leaderboard import Row, load_records, rows
from crystalbench.paper._study import Fusion, Study


class Predicted(NamedTuple):
    """One image's result: its scores, its label map's file, and the key of the record that holds them."""

    image: str
    difficulty: int
    scores: ImageScores
    labels: Path
    key: str

    def read_labels(self) -> NDArray[Any]:
        """Return the predicted label map, H x W."""
        return read_labels(self.labels)


@dataclass(frozen=True)
class Result:
    """What a row of a table stands on: its records, one a seed, and the row that the board makes of them."""

    records: Mapping[Path, Record]
    row: Row

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the records."""
        return tuple(self.row.key)

    def images(self) -> Iterator[Predicted]:
        """Yield the results of all images that were scored, record by record."""
        for folder, record in self.records.items():
            for image in record.images:
                file = labels_file(folder, image.image)
                if image.scores is not None and file is not None:
                    scores = ImageScores.from_row(image.scores)
                    yield Predicted(image.image, image.difficulty, scores, file, record.key)


@dataclass(frozen=True)
class Results:
    """The results of a study by row of Table II and of Table I; a row that was not asked for has none."""

    study: Study
    methods: Mapping[str, Result]
    fusions: Mapping[Fusion, Result]

    @property
    def samples(self) -> dict[str, Sample]:
        """The images that were tested, by name."""
        planned = (experiment.samples for experiment in self.study.experiments)
        return {sample.name: sample for samples in planned for sample in samples}

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each record, by the record's key."""
        return {
            record.key: folder
            for result in [*self.methods.values(), *self.fusions.values()]
            for folder, record in result.records.items()
        }


def read_results(study: Study) -> Results:
    """Read what the experiments of ``study`` have left, all of which have ended."""
    return Results(
        study,
        methods={name: _read(experiments) for name, experiments in study.methods.items()},
        fusions={fusion: _read(experiments) for fusion, experiments in study.fusions.items()},
    )


def _read(experiments: Sequence[Experiment]) -> Result:
    folders = [experiment.folder for experiment in experiments]
    # As on the board, what `crystalbench time` has left takes the place of the latency of a run.
    records = {folder: record for folder in folders for record in load_records([folder])}
    return Result(records, rows(records.values())[0])
