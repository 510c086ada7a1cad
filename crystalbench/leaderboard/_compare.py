"""Two records side by side: their settings where they differ, their scores image by image."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from crystalbench._exceptions import ConfigurationError
from crystalbench.config import differing, flatten
from crystalbench.evaluation import ImageScores
from crystalbench.evaluation._scores import nan_to_none
from crystalbench.evaluation._summary import mean_and_std
from crystalbench.experiment import ImageRecord, Record
from crystalbench.leaderboard._cells import NOTHING, plain
from crystalbench.leaderboard._table import titled_table

_FIELDS = {
    "pq": ("pq", "PQ %", 100, 1),
    "sq": ("sq", "SQ %", 100, 1),
    "rq": ("rq", "RQ %", 100, 1),
    "aji": ("aji", "AJI %", 100, 1),
    "mae_acs": ("acs_error", "MAE ACS px", 1, -1),
    "mre_acs": ("acs_relative_error", "MRE ACS %", 100, -1),
}
"""For each score the field of :class:`ImageScores`, header and unit for people, and 1 where more is better, else -1."""

_DIGITS = 12
_LARGEST = 5
_NAMED = 5
_Paired = list[tuple[ImageRecord, ImageRecord]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ComparedRun(_Part):
    """One of the two runs; ``alone`` are the images that it alone has scores of."""

    method: str
    title: str
    key: str
    alone: list[str]


class PairedScore(_Part):
    """One score over the ``n`` images where both runs have it; null without any.

    Differences are those of the second run to the first; ``better``, ``worse`` and ``equal`` count the images where the
    second is that.
    """

    n: int
    first: float | None
    second: float | None
    mean_difference: float | None
    median_difference: float | None
    better: int
    worse: int
    equal: int


class ComparedImage(_Part):
    """The PQ of one image in both runs."""

    image: str
    difficulty: int
    first: float
    second: float
    difference: float


class RunComparison(_Part):
    """What :func:`compare` finds.

    ``settings`` are those that differ, by name, as (first, second), null where a run has none of that name;
    ``largest`` are the images whose PQ differs most. Scores are fractions, ``mae_acs`` is in pixels.
    """

    dataset: str
    first: ComparedRun
    second: ComparedRun
    settings: dict[str, tuple[Any, Any]]
    n_images: int
    scores: dict[str, PairedScore]
    largest: list[ComparedImage]
    warnings: list[str]


def compare(first: Record, second: Record) -> RunComparison:
    """Compare two records of one data set, on the images that both have scores of.

    Raises
    ------
    ConfigurationError
        Where the data sets differ, or no image is scored in both.
    """
    _refuse_other_data(first, second)
    pairs = _pairs(first, second)
    if not pairs:
        raise ConfigurationError("the two runs have no scored image in common: compare runs that test the same images")
    common = {one.image for one, _ in pairs}
    return RunComparison(
        dataset=first.dataset.name,
        first=_run(first, common),
        second=_run(second, common),
        settings=differing(_settings(first), _settings(second)),
        n_images=len(pairs),
        scores={name: _paired(pairs, field, better) for name, (field, _, _, better) in _FIELDS.items()},
        largest=_largest(pairs),
        warnings=list(_warnings(first, second, pairs)),
    )


def run_comparison_table(comparison: RunComparison) -> Group:
    """Return a comparison as tables for people, with warnings below."""
    first, second = comparison.first, comparison.second
    parts: list[RenderableType] = [
        Text(plain(f"first:  {first.title} ({first.method}, {first.key[:12]})")),
        Text(plain(f"second: {second.title} ({second.method}, {second.key[:12]})")),
        Text(""),
        _settings_table(comparison) if comparison.settings else Text("No setting differs."),
        Text(""),
        _scores_table(comparison),
        *([Text(""), _images_table(comparison)] if comparison.largest else []),
        *(Text(plain(line), style="dim") for line in _remarks(comparison)),
    ]
    return Group(*parts)


def _refuse_other_data(first: Record, second: Record) -> None:
    one, other = first.dataset, second.dataset
    if one.name != other.name:
        raise ConfigurationError(
            f"the first run is of the data set {one.name}, the second of {other.name}: compare runs of one data set"
        )
    if one.identity_sha256 != other.identity_sha256:
        raise ConfigurationError(
            f"the two runs saw different images as {one.name} ({one.identity_sha256[:12]} and "
            f"{other.identity_sha256[:12]}): run one of them again"
        )


def _pairs(first: Record, second: Record) -> _Paired:
    others = _scored(second)
    return [(image, others[name]) for name, image in sorted(_scored(first).items()) if name in others]


def _scored(record: Record) -> dict[str, ImageRecord]:
    return {image.image: image for image in record.images if image.scores is not None}


def _run(record: Record, common: set[str]) -> ComparedRun:
    alone = sorted(_scored(record).keys() - common)
    return ComparedRun(method=record.method, title=record.info.title, key=record.key, alone=alone)


def _settings(record: Record) -> dict[str, Any]:
    """Return by name what a user has chosen, and where that ran."""
    return {
        "method": record.method,
        "preset": record.preset,
        "seed": record.seed,
        "split": f"{record.split.name} {record.split.sha256[:12]}",
        "fold": record.split.fold,
        "train data": record.train_dataset,
        "limit": record.limit,
        "device": f"{record.device} ({record.device_name})",
        "precision": record.precision,
        "threads": record.threads,
        **{f"weights of {name}": training.weights for name, training in record.trainings.items()},
        **dict(flatten(record.parameters)),
    }


def _values(pairs: _Paired, field: str) -> list[tuple[float, float]]:
    return [(_score(one, field), _score(other, field)) for one, other in pairs]


def _score(image: ImageRecord, field: str) -> float:
    assert image.scores is not None
    return float(getattr(ImageScores.from_row(image.scores), field))


def _paired(pairs: _Paired, field: str, better: int) -> PairedScore:
    # Only NaN is not itself.
    defined = [(a, b) for a, b in _values(pairs, field) if a == a and b == b]
    differences = [round(b - a, _DIGITS) for a, b in defined]
    return PairedScore(
        n=len(defined),
        first=nan_to_none(mean_and_std(a for a, _ in defined)[0]),
        second=nan_to_none(mean_and_std(b for _, b in defined)[0]),
        mean_difference=nan_to_none(mean_and_std(differences)[0]),
        median_difference=statistics.median(differences) if differences else None,
        better=sum(better * difference > 0 for difference in differences),
        worse=sum(better * difference < 0 for difference in differences),
        equal=differences.count(0.0),
    )


def _largest(pairs: _Paired) -> list[ComparedImage]:
    found = [
        ComparedImage(image=one.image, difficulty=one.difficulty, first=a, second=b, difference=round(b - a, _DIGITS))
        for (one, _), (a, b) in zip(pairs, _values(pairs, "pq"), strict=True)
    ]
    differing = [image for image in found if abs(image.difference) > 0]
    return sorted(differing, key=lambda image: -abs(image.difference))[:_LARGEST]


def _warnings(first: Record, second: Record, pairs: _Paired) -> Iterator[str]:
    if first.evaluator_version != second.evaluator_version:
        yield f"scored by evaluators {first.evaluator_version} and {second.evaluator_version}: run the older one again"
    pixels = [(one.image, {one.pixels_sha256, other.pixels_sha256} - {""}) for one, other in pairs]
    changed = [image for image, hashes in pixels if len(hashes) > 1]
    if changed:
        yield f"made with other pixels in the two runs: {_listed(changed)}"


def _settings_table(comparison: RunComparison) -> RenderableType:
    table = titled_table("Settings that differ")
    for header in ("setting", "first", "second"):
        table.add_column(header, overflow="fold")
    for name, values in comparison.settings.items():
        table.add_row(*(Text(plain(NOTHING if cell is None else str(cell))) for cell in (name, *values)))
    return table


def _scores_table(comparison: RunComparison) -> RenderableType:
    table = titled_table(f"{comparison.dataset}: scores of {comparison.n_images} images, second against first")
    table.add_column("score")
    for header in ("first", "second", "mean\ndifference", "median\ndifference", "better", "worse", "equal"):
        table.add_column(header, justify="right")
    for name, paired in comparison.scores.items():
        _, header, unit, _ = _FIELDS[name]
        means = (_number(paired.first, unit), _number(paired.second, unit))
        differences = (_signed(paired.mean_difference, unit), _signed(paired.median_difference, unit))
        counts = (str(paired.better), str(paired.worse), str(paired.equal))
        table.add_row(*map(Text, (header, *means, *differences, *counts)))
    return table


def _images_table(comparison: RunComparison) -> RenderableType:
    table = titled_table("Images whose PQ % differs most")
    table.add_column("image", overflow="fold")
    for header in ("class", "first", "second", "difference"):
        table.add_column(header, justify="right")
    for image in comparison.largest:
        scores = (_number(image.first, 100), _number(image.second, 100), _signed(image.difference, 100))
        table.add_row(*map(Text, (plain(image.image), str(image.difficulty), *scores)))
    return table


def _remarks(comparison: RunComparison) -> Iterator[str]:
    for which, run in (("first", comparison.first), ("second", comparison.second)):
        if run.alone:
            yield f"left out, as only the {which} run has scores of them: {_listed(run.alone)}"
    for name, paired in comparison.scores.items():
        if undefined := comparison.n_images - paired.n:
            yield f"{_FIELDS[name][1]} is undefined in {undefined} images, which are left out"
    yield from comparison.warnings


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _number(value: float | None, unit: int) -> str:
    return NOTHING if value is None else f"{unit * value:.2f}"


def _signed(value: float | None, unit: int) -> str:
    return NOTHING if value is None else f"{unit * value:+.2f}"
