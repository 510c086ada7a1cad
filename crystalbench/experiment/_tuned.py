"""``tuned.yaml``: what a search has chosen, from what, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic
from crystalbench.config import ParameterSet, Preset, read_yaml

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
    nothing else; ``pq`` is the winner's mean over its ``n_images``.
    """

    method: str
    dataset: str
    dataset_sha256: str
    split: str
    subset: str = "val"
    n_images: int
    preset: Preset
    seed: int
    sampler: str
    overrides: ParameterSet
    pq: float
    chosen_from: dict[str, list[Any]]
    stages: tuple[StageResult, ...]
    cost: Tuning


def tuned_file(out: Path, data: str, method: str) -> Path:
    """Return where ``crystalbench tune`` writes its choice."""
    return out / data / method / TUNED_FILE


def write_tuned(file: Path, tuned: Tuned) -> None:
    """Write ``tuned``, beside and renamed."""
    text = yaml.safe_dump(tuned.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    write_atomic(file, text.encode())


def read_tuned(file: Path, method: str, preset: Preset, dataset: str, dataset_sha256: str) -> Tuned:
    """Read a choice that was made for this method, preset and data set.

    Raises
    ------
    ConfigurationError
        Where there is no such file, it is of another form, or it was made for something else.
    """
    if not file.is_file():
        raise ConfigurationError(f"--tuned: {file} does not exist; first run: crystalbench tune --method {method}")
    tuned = read_yaml(file, Tuned)
    asked = {"method": method, "preset": preset, "dataset": dataset, "dataset_sha256": dataset_sha256}
    for name, value in asked.items():
        found = getattr(tuned, name)
        if found != value:
            raise ConfigurationError(
                f"{file}: was tuned for {name} {found}, not {value}; tune again, or give the parameters with --set"
            )
    return tuned
