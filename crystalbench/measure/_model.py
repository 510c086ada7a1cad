"""The model that measures: the method of a record, as it was trained and tested there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import file_sha256
from crystalbench.config import Tree
from crystalbench.experiment import Record, open_record
from crystalbench.experiment._isolated import isolate
from crystalbench.experiment._jobs import CHECKPOINT_FILE, read_training
from crystalbench.experiment._keys import prediction_base
from crystalbench.experiment._record import TrainingRecord
from crystalbench.experiment._reproduce import recorded_device
from crystalbench.registry import Method, find_method
from crystalbench.segmenter import Segmenter


@dataclass(frozen=True)
class Model:
    """A method with the parameters and checkpoints of a record.

    Parameters
    ----------
    record
        The record.
    method, values, checkpoints
        What it says of the method, its parameters, and the file of each trained component.
    adapters
        As of :class:`crystalbench.experiment.Request`.
    device
        Where it runs here.
    """

    record: Record
    method: Method
    values: Tree
    checkpoints: dict[str, Path]
    adapters: tuple[str, ...]
    device: str

    @property
    def threads(self) -> int:
        """As many as there are cores: what is measured here need not be the record's bit for bit."""
        return _devices.cores()

    @property
    def key(self) -> str:
        """What label maps depend on besides their images."""
        hashes = {name: file_sha256(file) for name, file in self.checkpoints.items()}
        return prediction_base(self.method, self.values, hashes, device=self.device, threads=self.threads)


def open_model(run: Path, adapters: Sequence[str], say: Callable[[str], None]) -> Model:
    """Return the model of a record, whose checkpoints are sought in ``train/`` of the run that it lies in.

    Parameters
    ----------
    run
        The folder of an experiment, ``runs/DATA/METHOD/KEY``, or its ``record.json``.
    adapters
        Files of methods that are not built in. A record's own are not loaded unasked: they are code.
    say
        Told what is odd.

    Raises
    ------
    ConfigurationError
        Where there is no whole record, it is of a failure, or of a method that needs more than an image; where the
        method, one of its parameters, or a checkpoint is not there, or the checkpoint is another than the record's.
    """
    record = open_record(run)
    if record.status != "ok":
        message = f": {record.error.type}: {record.error.message}" if record.error else ""
        raise ConfigurationError(f"{run} is of an experiment that ended as {record.status}{message}; name a good one")
    method = find_method(record.method, adapters)
    if record.provenance.get("isolated"):
        method = isolate({method.name: method}, say)[method.name]
    elif method.segmenter_class.predict_sample is not Segmenter.predict_sample:
        raise ConfigurationError(
            f"{run} is of {method.name}, which looks at the truth of an image or at files that were made for it, and "
            "segments no others: name the run of another method"
        )
    folder = run if run.is_dir() else run.parent
    # By name alone, so that it need not exist: a record can lie anywhere.
    trained = folder.resolve().parent.parent.parent / "train"
    return Model(
        record=record,
        method=method,
        values=method.parameters(record.parameters),
        checkpoints={name: _checkpoint(trained, name, record, run) for name in method.components},
        adapters=tuple(adapters),
        device=recorded_device(record, say),
    )


def _checkpoint(trained: Path, component: str, record: Record, run: Path) -> Path:
    training = record.trainings.get(component)
    if training is None:
        raise ConfigurationError(f"{run} tells of no training of {component}, which {record.method} has: run it again")
    folder = trained / component / training.key[:12]
    result = read_training(folder)
    if result is None:
        raise ConfigurationError(
            f"{run} needs the trained {component} in {folder}, which is not there: keep {trained} beside the run, or "
            "train it again with `crystalbench reproduce` and name the run which that makes"
        )
    file = folder / CHECKPOINT_FILE
    _check_hash(file, training, result.checkpoint_sha256, run)
    return file


def _check_hash(file: Path, training: TrainingRecord, told: str, run: Path) -> None:
    found, recorded = file_sha256(file), training.checkpoint_sha256 or told
    if found != recorded:
        raise ConfigurationError(
            f"{file} is not the checkpoint that {run} was tested with ({found[:12]}, not {recorded[:12]}): put that "
            "one back, or run the experiment again and name the new run"
        )
