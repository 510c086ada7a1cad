"""The worker's part in the timing of several methods: a call whenever it has the turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic, write_json
from crystalbench.data import Dataset, Sample
from crystalbench.experiment._jobs import PROGRESS_FILE, TIMES_FILE, TURNS_PIPE, Progress, TimeJob, Times
from crystalbench.experiment._predict import timed
from crystalbench.segmenter import Segmenter


def take_turns(job: TimeJob, segmenter: Segmenter, dataset: Dataset) -> None:
    """Warm up, then make one call a turn; leave the seconds of all of them.

    Raises
    ------
    ConfigurationError
        Where the method tells no latency. Whatever else a call raises ends the job too: what fails on one image has
        no mean over them.
    """
    samples = {sample.name: sample for sample in dataset.samples}
    report = _reporter(job)
    for count, image in enumerate(job.warm_up):
        report(count)
        _call(segmenter, samples[image])
    _devices.peak_memory(job.device)
    calls: list[Mapping[str, Any]] = []
    with (job.folder / TURNS_PIPE).open("rb", buffering=0) as turns:
        for image in job.images:
            report(len(job.warm_up) + len(calls))
            if not turns.read(1):
                return
            calls.append(_call(segmenter, samples[image]))
    times = Times(
        seconds=[call["seconds"] for call in calls],
        stages=[call["stages"] for call in calls],
        told=any(call["latency_told"] for call in calls),
        peak_gpu_bytes=_devices.peak_memory(job.device),
    )
    write_json(job.folder / TIMES_FILE, times.model_dump())
    report(len(job.warm_up) + len(calls))


def _call(segmenter: Segmenter, sample: Sample) -> Mapping[str, Any]:
    _, measured = timed(segmenter, sample, sample.image)
    if measured["seconds"] is None:
        raise ConfigurationError(f"{segmenter.info.name} runs elsewhere and does not tell its latency")
    return measured


def _reporter(job: TimeJob) -> Callable[[int], None]:
    total, start = len(job.warm_up) + len(job.images), time.monotonic()

    def report(step: int) -> None:
        progress = Progress(step=step, total=total, seconds=time.monotonic() - start)
        write_atomic(job.folder / PROGRESS_FILE, progress.model_dump_json().encode())

    return report
