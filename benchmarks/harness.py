"""What the harness itself costs around a method, and how long trainings wait for their crops."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _timing import Row, timed
from scipy import ndimage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crystalbench.config import Preset, override, parse_settings
from crystalbench.data import (
    Dataset,
    Sample,
    check_files,
    find_dataset,
    open_dataset,
    write_image,
    write_labels,
    write_split,
)
from crystalbench.evaluation import evaluate_extras
from crystalbench.experiment._worker import _JobContext
from crystalbench.registry import find_method

PEERS: tuple[str, ...] = ()

MANY, FEW = 313, 20
"""Images tested: as many as the paper's data set has, and as few as a worker loads all its libraries for."""

SIDE, CRYSTALS = 512, 50

STEPS = 6
"""Of a training that is watched."""

BATCH = {"quick": 8, "standard": 2}
"""Crops a step: a share does not depend on it, and full-size networks are slow on a CPU."""


@dataclass(frozen=True)
class _Cost:
    """Seconds of the clock, which other work on the machine stretches, and of all cores together."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.3g} s ({self.cpu:.3g} s of CPU)"


def rows() -> Iterator[Row]:
    """Yield what an image costs beyond its own work, what a start costs, and shares of waiting."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _overhead(Path(folder))
    demo = find_dataset("demo")
    for preset in ("quick", "standard"):
        for component in ("cp", "attention"):
            yield _waiting(demo, component, preset)


def _overhead(folder: Path) -> Iterator[Row]:
    many, few = (made(folder / str(count), count, SIDE) for count in (MANY, FEW))
    own = _mean([_own_work(sample, folder / "labels") for sample in many.split().test])
    checks = [_cost(lambda root=dataset.root: check_files(root), resource.RUSAGE_SELF) for dataset in (few, many)]
    # The first leaves the bytecode of what the others load.
    _run(few, folder / "first")
    start, whole, again = (_run(dataset, folder / "runs") for dataset in (few, many, many))
    read, image = _per_image(*checks), _per_image(start, whole)
    work = f"{MANY} images of {SIDE}^2 with {CRYSTALS} crystals, a method that does nothing"
    yield Row(
        work=f"{work}: ms of CPU an image beyond the work on it",
        against="reading, scoring and writing of labels",
        ratio=1e3 * (image.cpu - own.cpu),
        goal="under 5 ms",
        agreement=f"{image} an image, {own} of them its reading, scoring and writing",
    )
    apart = {
        f"a run of {FEW} images": start,
        f"{work}, all done before": again,
        "reading one image of a data set through, once": read,
    }
    for name, cost in apart.items():
        yield Row(f"{name}: s of CPU", "nothing", cost.cpu, "reported apart", str(cost))


def _mean(costs: Sequence[_Cost]) -> _Cost:
    return _Cost(statistics.mean(cost.wall for cost in costs), statistics.mean(cost.cpu for cost in costs))


def _per_image(few: _Cost, many: _Cost) -> _Cost:
    return _Cost((many.wall - few.wall) / (MANY - FEW), (many.cpu - few.cpu) / (MANY - FEW))


def _cost(call: Callable[[], object], who: int) -> _Cost:
    before = resource.getrusage(who)
    wall, _ = timed(call)
    after = resource.getrusage(who)
    return _Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def made(folder: Path, tested: int, side: int) -> Dataset:
    """Make a data set of square images, of which ``tested`` are tested, one trains and one validates."""
    subsets = ["train", "val", *["test"] * tested]
    for number in range(len(subsets)):
        rng = np.random.default_rng(number)
        seeds = np.zeros((side, side), np.int32)
        seeds[tuple(rng.integers(0, side, (2, CRYSTALS)))] = np.arange(1, CRYSTALS + 1)
        places = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
        labels = seeds[tuple(places)]
        image = (3 * labels[..., None] + rng.integers(0, 40, (side, side, 3))).astype(np.uint8)
        write_image(folder / "images" / f"{number:03}.png", image)
        write_labels(folder / "labels", f"{number:03}", labels)
    write_split(folder, "fixed", {f"{number:03}": [subset] for number, subset in enumerate(subsets)})
    return open_dataset(folder)


def _own_work(sample: Sample, folder: Path) -> _Cost:
    """Return what it takes to read one image, score it and write its labels."""

    def work() -> None:
        image, truth = sample.image, sample.label
        labels = np.zeros(image.shape[:2], np.int32)
        write_labels(folder, sample.name, labels)
        evaluate_extras(truth, labels)

    return _cost(work, resource.RUSAGE_SELF)


def _run(dataset: Dataset, out: Path) -> _Cost:
    command = [sys.executable, "-m", "crystalbench", "run", "--method", "empty", "--threads", "1"]
    command += ["--data", str(dataset.root), "--out", str(out)]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return _cost(
        lambda: subprocess.run(command, check=True, capture_output=True, env=environment), resource.RUSAGE_CHILDREN
    )


def _waiting(demo: Dataset, component: str, preset: Preset) -> Row:
    """Train a few steps and return the share of the time that the network waited for crops."""
    method, split = find_method("sima"), demo.split()
    train = split.train[: BATCH[preset]]
    few = {"epochs": STEPS, "crops_per_image": 1, "batch_size": len(train), "warmup_epochs": 1, "lr": 1e-3}
    settings = [f"train.{component}.{name}={value}" for name, value in few.items()]
    settings += ["train.attention.init=random"]
    values = override(method.config.values(preset), parse_settings(settings, ["sima"])["sima"], list(method.components))
    with tempfile.TemporaryDirectory() as folder:
        threads = len(os.sched_getaffinity(0))
        context = _JobContext(0, "cpu", threads, Path(folder), {})
        seconds, _ = timed(lambda: method.build(method.parameters(values)).fit(component, train, [], context))
        events = EventAccumulator(f"{folder}/tensorboard").Reload()
        share = events.Scalars("waiting")[-1].value
    return Row(
        work=f"training of {component}, {preset}, {STEPS} steps of {len(train)} crops: share of waiting for crops",
        against="the time of the training",
        ratio=share,
        goal="never starves",
        agreement=f"{seconds:.1f} s with the targets; the first batch, which nothing hides, is one of {STEPS}",
    )
