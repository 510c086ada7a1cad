"""What a page shows besides records: test images with their truth, label maps, training curves."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalbench._exceptions import CrystalbenchError
from crystalbench.data import LABEL_SUFFIXES, Dataset, Sample, files_by_stem, find_dataset, read_labels, safe_name
from crystalbench.data._dataset import pixel_hash
from crystalbench.experiment import Record, told_data
from crystalbench.leaderboard._load import Stored
from crystalbench.segmenter import Image

Curve = list[tuple[int, float]]
"""Step and value of each point."""

_POINTS = 400
"""At most so many points of a training curve are shown; the reader draws them by chance, the last is always there."""


def find_samples(records: Sequence[Record]) -> dict[str, Sample]:
    """Return the samples of a board's data set by name: none where it is not here."""
    dataset = next(filter(None, map(_dataset, records)), None)
    return {sample.name: sample for sample in dataset.samples} if dataset else {}


def _dataset(record: Record) -> Dataset | None:
    """Return the data set of a record, where what its command names is one of the recorded name."""
    for name in dict.fromkeys((record.dataset.name, told_data(record)[0])):
        with suppress(CrystalbenchError, OSError, ValueError):
            dataset = find_dataset(name)
            if dataset.name == record.dataset.name:
                return dataset
    return None


def read_tested(sample: Sample | None, recorded: Collection[str]) -> tuple[Image, NDArray[np.int32]] | None:
    """Return image and truth of a sample; None where they cannot be read or have none of the recorded hashes.

    A record can be a stranger's and name any folder, and a folder may have changed since.
    """
    if sample is None:
        return None
    with suppress(CrystalbenchError, OSError):
        image, truth = sample.image, sample.label
        if pixel_hash(image, truth) in recorded:
            return image, truth
    return None


def label_files(row: Sequence[Stored]) -> dict[str, Path]:
    """Return the label maps of a row's records by image, those of the first seed.

    Folders are listed, as names in a record may lead anywhere.
    """
    found: dict[str, Path] = {}
    for stored in reversed(row):
        found |= {stem: files[0] for stem, files in files_by_stem(stored.labels, LABEL_SUFFIXES).items()}
    return found


def read_map(file: Path | None, shape: tuple[int, ...] | None) -> NDArray[Any] | None:
    """Return a label map; None where there is none of ``shape``, or it cannot be read."""
    if file is None:
        return None
    try:
        labels = read_labels(file)
    except (CrystalbenchError, OSError) as error:
        logging.getLogger("crystalbench").warning("%s: not shown (%s)", file, error)
        return None
    return labels if shape in (None, labels.shape) else None


def training_curves(stored: Stored) -> dict[str, Curve]:
    """Return the losses of a record's trainings, by component and tag; none where the run's folder is not here."""
    found = {
        component: stored.root / "train" / component / training.key[:12] / "tensorboard"
        for component, training in stored.record.trainings.items()
        # Those of a stranger's record may lead anywhere.
        if all(name == safe_name(name) for name in (component, training.key[:12]))
    }
    return {
        f"{component}: {tag}": curve
        for component, folder in found.items()
        if folder.is_dir()
        for tag, curve in _scalars(folder)
    }


def _scalars(folder: Path) -> Iterator[tuple[str, Curve]]:
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
    except ImportError:
        return
    events = EventAccumulator(str(folder), size_guidance={SCALARS: _POINTS})
    events.Reload()
    for tag in sorted(filter(_is_loss, events.Tags()[SCALARS])):
        yield tag, [(event.step, event.value) for event in events.Scalars(tag)]


def _is_loss(tag: str) -> bool:
    return "loss" in tag.split("/")[0]


def command(record: Record) -> str | None:
    """Return the command that made a record, for a shell; None where it does not say."""
    told = record.provenance.get("command")
    return shlex.join(map(str, told)) if told and isinstance(told, list) else None


def shown_path(file: Path) -> str:
    """Return how the user would name a file: below the folder that the command is given in, where it is there."""
    resolved = file.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(file)
