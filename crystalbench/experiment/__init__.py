"""Runs: from a request to records. Plan, trainings, predictions, records; each once, whatever is killed."""

from crystalbench.experiment._isolated import check_isolated
from crystalbench.experiment._plan import Experiment, Request, Training, plan
from crystalbench.experiment._progress import reporter
from crystalbench.experiment._record import ImageRecord, Record
from crystalbench.experiment._run import Run, read_record
from crystalbench.experiment._time import Timed, TimeRun
from crystalbench.experiment._watch import Limits

__all__ = [
    "Experiment",
    "ImageRecord",
    "Limits",
    "Record",
    "Request",
    "Run",
    "TimeRun",
    "Timed",
    "Training",
    "check_isolated",
    "plan",
    "read_record",
    "reporter",
]
