"""Runs: from a request to records. Plan, trainings, predictions, records; each once, whatever is killed."""

from crystalbench.experiment._executors import Executor, Local, open_executor
from crystalbench.experiment._isolated import check_isolated
from crystalbench.experiment._plan import Experiment, Request, Training, plan
from crystalbench.experiment._points_table import points_table
from crystalbench.experiment._progress import reporter
from crystalbench.experiment._record import ImageRecord, Record
from crystalbench.experiment._reproduce import Reproducer, Reproduction, told_data
from crystalbench.experiment._run import Run, read_record
from crystalbench.experiment._search import Tune, plan_searches
from crystalbench.experiment._stored import open_record
from crystalbench.experiment._time import Timed, TimeRun
from crystalbench.experiment._watch import Limits

__all__ = [
    "Executor",
    "Experiment",
    "ImageRecord",
    "Limits",
    "Local",
    "Record",
    "Reproducer",
    "Reproduction",
    "Request",
    "Run",
    "TimeRun",
    "Timed",
    "Training",
    "Tune",
    "check_isolated",
    "open_executor",
    "open_record",
    "plan",
    "plan_searches",
    "points_table",
    "read_record",
    "reporter",
    "told_data",
]
