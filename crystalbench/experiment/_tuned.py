"""``tuned.yaml``: what a search has chosen, from what, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic
from crystalbench.config import ParameterSet, Preset, read_yaml
from crystalbench.data import Fold

TUNED_FILE = "tuned.yaml"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tuning(_Part):
    """What a search cost.

    Attributes
    ----------
    trainings
        Settings of ``train`` that were tried; ``trainings_by_component`` counts every training that this took.
    points
        Settings of all parameters that were scored.
    device_s
        Seconds of all trainings and predictions, each counted once.
    device_s_point_by_point
        The same where each point had trained and predicted for itself: a sum of what was measured.
    """

    trainings: int
    points: int
    device_s: float
    trainings_by_component: dict[str, int] = {}
    device_s_point_by_point: float


def total(costs: Sequence[Tuning]) -> Tuning:
    """Return what several searches cost together."""
    components: Counter[str] = Counter()
    for cost in costs:
        components.update(cost.trainings_by_component)
    return Tuning(
        trainings=sum(cost.trainings for cost in costs),
        points=sum(cost.points for cost in costs),
        device_s=sum(cost.device_s for cost in costs),
        trainings_by_component=dict(components),
        device_s_point_by_point=sum(cost.device_s_point_by_point for cost in costs),
    )


class StageResult(_Part):
    """One stage of a search: how much was tried, and the parameters that won."""

    name: str
    trainings: int
    points: int
    failed: int
    pruned: int = 0
    winner: dict[str, Any]
    pq: float


class Tuned(_Part):
    """The winner of a search.

    ``overrides`` are laid over the preset. The search saw the subset ``subset`` of ``split`` of ``dataset`` and
    nothing else; ``pq`` is the winner's mean over its ``n_images``. In a ``fold`` of a split this is what it tests, so
    the search saw the one after it. ``split_sha256`` says which images are where, ``search`` is the key of how it was
    searched, on whatever images; both are null in older files.
    """

    method: str
    dataset: str
    dataset_sha256: str
    split: str
    fold: int | None = None
    split_sha256: str | None = None
    subset: str = "val"
    n_images: int
    preset: Preset
    seed: int
    sampler: str
    search: str | None = None
    overrides: ParameterSet
    pq: float
    chosen_from: dict[str, list[Any]]
    stages: tuple[StageResult, ...]
    cost: Tuning


def tuned_file(out: Path, data: str, method: str, fold: Fold | None) -> Path:
    """Return where ``crystalbench tune`` writes its choice."""
    name = f"tuned-fold-{fold.number}-of-{fold.folds}.yaml" if fold else TUNED_FILE
    return out / data / method / name


def write_tuned(file: Path, tuned: Tuned) -> None:
    """Write ``tuned``, beside and renamed."""
    text = yaml.safe_dump(tuned.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    write_atomic(file, text.encode())


def read_tuned(file: Path, asked: Mapping[str, object], fold: Fold | None) -> Tuned:
    """Read a choice that was made for the method, preset, data set and split of ``asked``.

    Raises
    ------
    ConfigurationError
        Where there is no such file, it is of another form, or it was made for something else.
    """
    if not file.is_file():
        flag, folds = ("--nested", f" --folds {fold.folds}") if fold else ("--tuned", "")
        tune = f"crystalbench tune --method {asked['method']}{folds}"
        raise ConfigurationError(f"{flag}: {file} does not exist; first run: {tune}")
    tuned = read_yaml(file, Tuned)
    for name, value in asked.items():
        found = getattr(tuned, name)
        if found != value:
            raise ConfigurationError(
                f"{file}: was tuned for {name} {found}, not {value}; tune again, or give the parameters with --set"
            )
    return tuned
