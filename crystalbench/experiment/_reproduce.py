"""An experiment done again from its record, and what is different then."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import write_json
from crystalbench.config import PRESETS, differing, flatten
from crystalbench.data import Dataset
from crystalbench.experiment._keys import source_sha256
from crystalbench.experiment._plan import Experiment, Request, identity_sha256, replan
from crystalbench.experiment._progress import Reporter
from crystalbench.experiment._record import ImageRecord, Record
from crystalbench.experiment._run import Run, read_record

CLAIM_FILE = "reproduces.json"

_NOT_COMPARED = {"start", "end", "command", "source_sha256"}
_SUMMARY = ("pq", "aji", "mae_acs", "mre_acs")


class _Told(BaseModel):
    command: list[str] = []


class _Claim(BaseModel):
    key: str


@dataclass(frozen=True)
class Reproduction:
    """A record, and that of the same experiment done again in ``folder``."""

    recorded: Record
    again: Record
    folder: Path

    @property
    def images(self) -> dict[str, list[str]]:
        """For each image whose result is not the recorded one, integer for integer, the counts that differ."""
        before, now = _rows(self.recorded), _rows(self.again)
        names = dict.fromkeys([*before, *now])
        return {
            name: _differing(before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)
        }

    @property
    def other_pixels(self) -> list[str]:
        """The images whose pixels are not those of the record: a made set can differ on another system."""
        now = {image.image: image.pixels_sha256 for image in self.again.images}
        known = [
            (image.image, {image.pixels_sha256, now.get(image.image, "")} - {""}) for image in self.recorded.images
        ]
        return [name for name, hashes in known if len(hashes) > 1]

    @property
    def is_same(self) -> bool:
        """Whether every image has the scores of the record."""
        return self.again.status == "ok" and not self.images

    @property
    def scores(self) -> dict[str, tuple[float | None, float | None]]:
        """The mean scores that differ, as (recorded, now)."""
        return differing(*({name: record.summary.get(name) for name in _SUMMARY} for record in self._both))

    @property
    def conditions(self) -> dict[str, tuple[Any, Any]]:
        """Versions, machine and trained weights that differ, as (recorded, now)."""
        return differing(*map(_conditions, self._both))

    @property
    def _both(self) -> tuple[Record, Record]:
        return self.recorded, self.again


@dataclass(frozen=True)
class Reproducer:
    """What doing an experiment again needs and its record does not hold.

    Parameters
    ----------
    dataset, train_dataset
        Those of the record, by content.
    adapters
        As of :class:`crystalbench.experiment.Request`. A record's own are not loaded unasked: they are code.
    unpickle
        As there.
    out
        A folder that is empty, not there yet, or holds an unfinished reproduction of the same record.
    """

    dataset: Dataset
    train_dataset: Dataset | None
    adapters: Sequence[str]
    unpickle: bool
    out: Path

    def __call__(self, record: Record, reporter: Reporter) -> Reproduction:
        """Do the experiment of ``record`` again with its method, parameters, split, seed, device and threads.

        Raises
        ------
        DataError
            Where the data set holds other images.
        ConfigurationError
            Where the method or one of its parameters is not there, other images train, validate or test, or ``out``
            holds anything else.
        """
        self._check_data(record)
        experiment = replan(self._request(record, reporter), record, reporter.say)
        self._check_plan(record, experiment, reporter)
        self._claim(record, experiment)
        (again,) = Run([experiment], reporter)()
        return Reproduction(record, again, experiment.folder)

    def _check_data(self, record: Record) -> None:
        found, recorded = identity_sha256(self.dataset), record.dataset.identity_sha256
        if found != recorded:
            raise DataError(
                f"{self.dataset.root} holds other images than {record.dataset.name} of the record "
                f"({found[:12]}, not {recorded[:12]}): name the folder of the same images with --data"
            )

    def _request(self, record: Record, reporter: Reporter) -> Request:
        preset = next((preset for preset in PRESETS if preset == record.preset), None)
        if preset is None:
            raise ConfigurationError(f"the record has the preset {record.preset!r}, which this version does not know")
        return Request(
            methods=(record.method,),
            dataset=self.dataset,
            train_dataset=self.train_dataset if record.train_dataset else None,
            preset=preset,
            seeds=(record.seed,),
            adapters=tuple(self.adapters),
            folds=record.split.folds,
            limit=record.limit,
            device=recorded_device(record, reporter.say),
            threads=record.threads,
            isolated=bool(record.provenance.get("isolated")),
            unpickle=self.unpickle,
            out=self.out,
        )

    def _check_plan(self, record: Record, experiment: Experiment, reporter: Reporter) -> None:
        found = experiment.parts.sha256
        if record.split.sha256 not in ("", found):
            raise ConfigurationError(
                f"other images of {self.dataset.root} train, validate or test than in the record "
                f"({found[:12]}, not {record.split.sha256[:12]}): take its splits/ as they were"
            )
        source = record.provenance.get("source_sha256")
        if source not in (None, source_sha256(experiment.method)):
            reporter.say(f"warning: the source of {record.method} has changed since the record was made")

    def _claim(self, record: Record, experiment: Experiment) -> None:
        """Keep results that were there before out of the reproduction, but go on with one that was interrupted."""
        file = self.out / CLAIM_FILE
        if not self.out.exists() or not any(self.out.iterdir()):
            write_json(file, {"key": record.key})
        elif _claimed(file) != record.key or _is_done(experiment):
            raise ConfigurationError(f"{self.out} already holds results: name a new folder with --out")


def told_data(record: Record) -> tuple[str, str | None]:
    """Return what the recorded command calls the data set and that for training, or the names of the record."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--data", default=record.dataset.name)
    parser.add_argument("--train-data", default=record.train_dataset)
    try:
        told, _ = parser.parse_known_args(_Told.model_validate(record.provenance).command)
    except (argparse.ArgumentError, ValidationError):
        return record.dataset.name, record.train_dataset
    return told.data, told.train_data


def recorded_device(record: Record, say: Callable[[str], None]) -> str:
    """Return the kind of device that a record is of, or ``cpu`` where that is not here, and say so."""
    try:
        return _devices.resolve_device(record.device)
    except ConfigurationError:
        say(f"warning: the record is of a {record.device_name}, which is not here: this runs on the CPU")
        return "cpu"


def _claimed(file: Path) -> str | None:
    try:
        return _Claim.model_validate_json(file.read_bytes()).key
    except (OSError, ValueError):
        return None


def _is_done(experiment: Experiment) -> bool:
    record = read_record(experiment.folder)
    return record is not None and record.status == "ok"


def _rows(record: Record) -> dict[str, dict[str, Any]]:
    return {image.image: _row(image) for image in record.images}


def _row(image: ImageRecord) -> dict[str, Any]:
    return {"status": image.status, **(image.scores or {})}


def _differing(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    if before is None or now is None:
        return ["not in the record" if before is None else "not done again"]
    return list(differing(before, now))


def _conditions(record: Record) -> dict[str, Any]:
    provenance = {name: value for name, value in record.provenance.items() if name not in _NOT_COMPARED}
    return {
        **dict(flatten(provenance)),
        "evaluator": record.evaluator_version,
        "device": record.device,
        "class_px": record.dataset.class_px,
        **dict(_trained(record)),
        **dict(flatten(record.parameters)),
    }


def _trained(record: Record) -> Iterator[tuple[str, Any]]:
    for name, training in record.trainings.items():
        yield f"weights of {name} before training", training.init_sha256 or training.weights
        yield f"weights of {name} after training", training.checkpoint_sha256
