"""Records -> rows: folds put together, seeds averaged per image, then means over images, then ranks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from math import nan
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from crystalbench._files import canonical_json
from crystalbench.config import flatten
from crystalbench.data import folds_name
from crystalbench.evaluation import ImageExtras, ImageScores, compare_all, mean_interval, rank_intervals
from crystalbench.evaluation._extras import EXTRA_SCALARS, by_length_to_json
from crystalbench.evaluation._scores import nan_to_none, panoptic_quality
from crystalbench.evaluation._summary import mean_and_std
from crystalbench.experiment._record import Latency, Record
from crystalbench.experiment._tuned import Tuning, total

_CLASSES = (1, 2, 3)
_SEVERITY = ("ok", "missing", "interrupted", "timeout", "oom", "failed", "crashed")
_FIELDS = {
    "pq": "pq",
    "sq": "sq",
    "rq": "rq",
    "aji": "aji",
    "acs": "acs_prediction",
    "acs_truth": "acs_truth",
    "mae_acs": "acs_error",
    "mre_acs": "acs_relative_error",
}
_OTHER_MACHINES = (
    "no latency: seeds or folds were timed on different machines, numbers of threads or by other protocols"
)
_NESTED = "tuned in each fold"
_ImageName = tuple[str, str, str]
"""Data set, its content, image."""


class _Scored(NamedTuple):
    """One image: its difficulty class, its fold, if any, the scores of its seeds, and their further ones.

    These are None in older records.
    """

    difficulty: int
    fold: int | None
    seeds: list[ImageScores]
    extras: list[ImageExtras | None]


class Scores(BaseModel):
    """Scores over images: means of the per-image values, ``_std`` their standard deviation (ddof = 1).

    Fractions, not percent; ACS in pixels; null where undefined. ``pq_pooled`` sums over all images first.
    ``mae_acs`` and ``mre_acs`` are means of the per-image errors (paper, section IV-C). ``n_undefined``
    counts the images whose truth has no crystal, so that their ACS errors, and without a prediction their PQ,
    are undefined; ``n_no_prediction`` those where the truth has crystals and a seed found none.

    ``aji_plus``, ``splits``, ``merges`` (crystals an image) and ``dg`` (signed) are means too, ``pq_by_length`` and
    ``recall_by_length`` of the crystals of all images together, by the shortest length of an octave in pixels. All
    six are null where a record is older than these scores.
    """

    model_config = ConfigDict(frozen=True)

    n_undefined: int
    n_no_prediction: int
    pq: float | None
    pq_std: float | None
    pq_pooled: float | None
    sq: float | None
    rq: float | None
    aji: float | None
    aji_std: float | None
    acs: float | None
    acs_std: float | None
    acs_truth: float | None
    acs_truth_std: float | None
    mae_acs: float | None
    mre_acs: float | None
    mre_acs_std: float | None
    aji_plus: float | None
    splits: float | None
    merges: float | None
    dg: float | None
    pq_by_length: dict[str, float | None] | None
    recall_by_length: dict[str, float | None] | None


class ClassScores(Scores):
    """The scores of one difficulty class or one fold; ``n`` is its number of scored images."""

    n: int


class ImagePQ(NamedTuple):
    """PQ of one image, the mean over seeds and NaN where it is undefined, and the group of the image."""

    pq: float
    group: str


class Row(Scores):
    """One line of the leaderboard.

    ``rank`` is "2", or "1-3" where tests do not tell the row apart from others (:func:`rank_intervals`), and null
    for rows that are not ranked: controls, partial rows and rows whose status is not ok. ``pq_low`` and ``pq_high``
    are the 95 % bootstrap interval of ``pq``, by group. ``partial`` is true where ``--limit`` was given, images failed
    or folds are missing. ``by_fold`` is empty where there are no folds. ``weights`` is where the initial weights come
    from, null where nothing is trained. ``latency_s`` is the mean in seconds, ``latency_reference_s`` that with the
    post-processing of the method's own library, and ``latency_conditions`` machine, threads and protocol; null where
    those of seeds or folds differ. ``changes`` are the settings that are not the preset's; ``variant`` names them, and
    what else tells apart rows that would look the same. ``tuning`` is what the search for the settings cost, null where
    there was none. ``nested`` is true where each fold was tuned on its own: ``tuning`` is then the sum over the folds,
    and ``settings`` and ``changes`` are those that all folds share.
    """

    method: str
    title: str
    dataset: str
    train_dataset: str | None
    split: str
    preset: str
    seeds: list[int]
    n_images: int
    n_failed: int
    partial: bool
    status: str
    error: dict[str, Any] | None
    rank: str | None = None
    pq_low: float | None
    pq_high: float | None
    control: bool
    by_class: dict[str, ClassScores]
    by_fold: dict[str, ClassScores]
    parameters: int | None
    input_size: int | None
    image_rescaling: bool | None
    multi_scale: bool | None
    fusion: str | None
    latency_s: float | None
    latency_stages: dict[str, float] | None
    latency_reference_s: float | None
    latency_conditions: str | None
    device: str
    device_name: str | None
    precision: str | None
    weights: str | None
    limit: int | None
    variant: str | None = None
    settings: dict[str, Any]
    changes: dict[str, Any]
    tuning: Tuning | None
    nested: bool
    split_name: str
    split_sha256: str
    dataset_sha256: str
    class_px: int
    key: list[str]
    warnings: list[str]
    images: dict[str, ImagePQ] = Field(exclude=True, repr=False)

    @property
    def board(self) -> tuple[str | int, ...]:
        """What rows must share to be compared: data set, its content and classes, split and training data."""
        data = (self.dataset, self.dataset_sha256, self.class_px)
        return (*data, self.train_dataset or "", self.split, self.split_name, self.split_sha256)


def rows(records: Iterable[Record]) -> list[Row]:
    """Turn records into the rows of the leaderboard, best first within each board.

    One row per method, data set, training data, split, preset, settings, initial weights, limit, device and
    precision; all folds are one row. Of several records of one seed and fold the newest counts, and the row says so.

    Parameters
    ----------
    records
        What :func:`load_records` returns.

    Returns
    -------
    list of Row
        Sorted by board; within one ranked rows by PQ, then rows without a rank, then controls.
    """
    found = list(records)
    pixels = _pixels(found)
    plain = [_row(group, pixels) for group in _groups(found)]
    return sorted(_told_apart(_ranked(plain)), key=_order)


def _pixels(records: Iterable[Record]) -> dict[_ImageName, set[str]]:
    """Return the pixel hashes under which each image of each data set was met."""
    found: defaultdict[_ImageName, set[str]] = defaultdict(set)
    for record in records:
        for image in record.images:
            if image.pixels_sha256:
                found[(*_content(record), image.image)].add(image.pixels_sha256)
    return found


def _content(record: Record) -> tuple[str, str]:
    return record.dataset.name, record.dataset.identity_sha256


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield the records of each row.

    A run that failed may have ended before its weights were known: it joins the finished seeds of the same
    settings, so that it cannot hide beside them.
    """
    alike: defaultdict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        alike[_settings_key(record)].append(record)
    for group in alike.values():
        by_weights: defaultdict[str | None, list[Record]] = defaultdict(list)
        finished = {_weights(record) for record in group if record.status == "ok"}
        for record in group:
            joins = record.status != "ok" and len(finished) == 1
            by_weights[next(iter(finished)) if joins else _weights(record)].append(record)
        yield from by_weights.values()


def _settings_key(record: Record) -> Hashable:
    return (
        record.method,
        record.dataset.name,
        record.dataset.identity_sha256,
        record.dataset.class_px,
        record.train_dataset,
        record.split.name,
        record.split.subset,
        record.split.sha256,
        record.split.folds,
        record.preset,
        record.nested or canonical_json(record.parameters),
        record.limit,
        record.device,
        record.precision,
    )


def _weights(record: Record) -> str | None:
    """Return the first origin of initial weights that is not random, else random; None where no training says one."""
    origins = [training.weights for training in record.trainings.values() if training.weights]
    return next((origin for origin in origins if origin != "random"), "random" if origins else None)


def _row(group: Sequence[Record], pixels: Mapping[_ImageName, set[str]]) -> Row:
    records, surplus = _newest(group)
    newest = max(records, key=finished_at)
    worst = max(records, key=lambda record: _SEVERITY.index(record.status))
    scored = _scored_images(records)
    images = list(scored.values())
    image_pq = _image_pq(records, scored)
    low, high = mean_interval([image.pq for image in image_pq.values()], [image.group for image in image_pq.values()])
    n_images, n_failed = _counts(records, images)
    missing = _missing(records)
    info = newest.info
    # Of searches in each fold the choices differ.
    alike = records if newest.nested else [newest]
    return Row(
        method=newest.method,
        title=info.title,
        dataset=newest.dataset.name,
        dataset_sha256=newest.dataset.identity_sha256,
        train_dataset=newest.train_dataset,
        split=folds_name(newest.split.folds) if newest.split.folds else newest.split.subset,
        split_name=newest.split.name,
        split_sha256=newest.split.sha256,
        class_px=newest.dataset.class_px,
        preset=newest.preset,
        seeds=_seeds(records),
        n_images=n_images,
        n_failed=n_failed,
        partial=newest.limit is not None or n_failed > 0 or bool(missing),
        limit=newest.limit,
        status=worst.status,
        error=worst.error.model_dump() if worst.error else None,
        control=info.control,
        **_scores(images),
        pq_low=nan_to_none(low),
        pq_high=nan_to_none(high),
        images=image_pq,
        by_class=_by_class(images),
        by_fold=_by_fold(images, newest.split.folds),
        parameters=info.parameters,
        input_size=info.input_size,
        image_rescaling=info.image_rescaling,
        multi_scale=info.multi_scale,
        fusion=info.fusion,
        **_latency(records),
        device=newest.device,
        device_name=newest.device_name,
        precision=newest.precision,
        weights=next(filter(None, map(_weights, records)), None),
        settings=_shared([record.parameters for record in alike]),
        changes=_shared([record.changes for record in alike]),
        tuning=_tuning(newest, records),
        nested=newest.nested is not None,
        key=[record.key for record in records],
        warnings=[*missing, *_other_pixels(records, pixels), *_warnings(records, surplus)],
    )


def finished_at(record: Record) -> str:
    """Return when a record's run ended, as ISO 8601 in UTC; empty where it does not say."""
    return str(record.provenance.get("end", ""))


def _newest(group: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Return the newest record of each seed and fold, in their order, and a warning for each surplus."""
    found: defaultdict[tuple[int, int], list[Record]] = defaultdict(list)
    for record in sorted(group, key=finished_at):
        found[(record.seed, record.split.fold or 0)].append(record)
    surplus = [
        f"seed {seed}{f', fold {fold}' if fold else ''} has {len(records)} records of these settings; the newest, "
        f"{records[-1].key[:12]}, is shown"
        for (seed, fold), records in sorted(found.items())
        if len(records) > 1
    ]
    return [found[place][-1] for place in sorted(found)], surplus


def _seeds(records: Sequence[Record]) -> list[int]:
    return sorted({record.seed for record in records})


def _counts(records: Sequence[Record], images: Sequence[_Scored]) -> tuple[int, int]:
    """Return how many images are tested, in all folds that there are, and how many of them lack a seed's scores."""
    planned: defaultdict[int | None, int] = defaultdict(int)
    for record in records:
        planned[record.split.fold] = max(planned[record.split.fold], record.n_planned)
    seeds = Counter(record.split.fold for record in records)
    n_images = sum(planned.values())
    return n_images, n_images - sum(len(image.seeds) == seeds[image.fold] for image in images)


def _missing(records: Sequence[Record]) -> list[str]:
    """Name the folds that have no record, for each seed."""
    folds, there = records[0].split.folds or 0, {(record.seed, record.split.fold) for record in records}
    lacking = [
        (seed, fold) for seed, fold in product(_seeds(records), range(1, folds + 1)) if (seed, fold) not in there
    ]
    return [
        f"seed {seed} lacks fold {', '.join(str(fold) for _, fold in found)} of {folds}"
        for seed, found in groupby(lacking, key=lambda place: place[0])
    ]


def _shared(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what nested mappings hold alike."""
    first, *others = trees
    shared: dict[str, Any] = {}
    for name, value in first.items():
        values = [value, *(other.get(name) for other in others)]
        if all(isinstance(found, Mapping) for found in values):
            shared[name] = _shared(values)
        elif all(found == value for found in values):
            shared[name] = value
    return shared


def _tuning(newest: Record, records: Sequence[Record]) -> Tuning | None:
    """Return what tuning cost, in all folds together where each was tuned on its own."""
    if newest.nested is None:
        return newest.tuning
    by_fold = {record.split.fold: record.tuning for record in records if record.tuning}
    return total(list(by_fold.values()))


def _warnings(records: Sequence[Record], surplus: Sequence[str]) -> list[str]:
    machines = [_OTHER_MACHINES] if len(_conditions(records)) > 1 else []
    told = (warning for record in records for warning in record.warnings)
    return list(dict.fromkeys([*surplus, *machines, *told]))


def _other_pixels(records: Sequence[Record], pixels: Mapping[_ImageName, set[str]]) -> list[str]:
    """Name images that a made set showed to others with other pixels: its identity is version and seed."""
    content, met = _content(records[0]), dict.fromkeys(image.image for record in records for image in record.images)
    names = [name for name in met if len(pixels.get((*content, name), ())) > 1]
    return [f"made with other pixels than in other records of this board: {', '.join(names)}"] if names else []


def _latency(records: Sequence[Record]) -> dict[str, Any]:
    """Return mean latencies and stages in seconds over the calls of all; null where they were not measured alike."""
    conditions, measured = _conditions(records), _measured(records)
    if len(conditions) != 1:
        return dict.fromkeys(("latency_s", "latency_stages", "latency_reference_s", "latency_conditions"))
    latencies = [latency for _, latency in measured]
    reference = [record.latency_reference for record, _ in measured if record.latency_reference]
    stages = sorted({stage for latency in latencies for stage in latency.stages})
    return {
        "latency_s": _mean_of_calls(latencies, [latency.mean_s for latency in latencies]),
        "latency_stages": {
            stage: _mean_of_calls(latencies, [latency.stages.get(stage, 0.0) for latency in latencies])
            for stage in stages
        },
        "latency_reference_s": _mean_of_calls(reference, [found.mean_s for found in reference]) if reference else None,
        "latency_conditions": conditions.pop(),
    }


def _mean_of_calls(latencies: Sequence[Latency], means: Iterable[float]) -> float:
    return fmean(means, [latency.n for latency in latencies])


def _measured(records: Sequence[Record]) -> list[tuple[Record, Latency]]:
    """Return the latencies of the records that were timed in turn with other methods, of all where none was."""
    measured = [(record, record.latency) for record in records if record.latency]
    return [(record, latency) for record, latency in measured if latency.machine] or measured


def _conditions(records: Sequence[Record]) -> set[str]:
    """Return on what machines and how the latencies of ``records`` were measured."""
    return {
        f"{latency.machine or f'{record.device_name}, {record.threads} threads'}; {latency.protocol}"
        for record, latency in _measured(records)
    }


def _scored_images(records: Sequence[Record]) -> dict[str, _Scored]:
    """Return difficulty class and the scores of all seeds, for each image that has any, by name."""
    found: dict[str, _Scored] = {}
    for record in records:
        for image in record.images:
            if image.status == "ok" and image.scores is not None:
                one = found.setdefault(image.image, _Scored(image.difficulty, record.split.fold, [], []))
                scores = ImageScores.from_row(image.scores)
                one.seeds.append(scores)
                one.extras.append(None if image.extras is None else ImageExtras.from_row(scores, image.extras))
    return {name: found[name] for name in sorted(found)}


def _image_pq(records: Sequence[Record], scored: Mapping[str, _Scored]) -> dict[str, ImagePQ]:
    groups = {image.image: image.group for record in records for image in record.images}
    means = _seed_means([one.seeds for one in scored.values()], "pq")
    return {name: ImagePQ(pq, groups[name]) for name, pq in zip(scored, means, strict=True)}


def _by_class(images: Sequence[_Scored]) -> dict[str, ClassScores]:
    members = {c: [image for image in images if image.difficulty == c] for c in _CLASSES}
    return {str(c): ClassScores(n=len(found), **_scores(found)) for c, found in members.items()}


def _by_fold(images: Sequence[_Scored], folds: int | None) -> dict[str, ClassScores]:
    members = {fold: [image for image in images if image.fold == fold] for fold in range(1, (folds or 0) + 1)}
    return {str(fold): ClassScores(n=len(found), **_scores(found)) for fold, found in members.items() if found}


def _scores(images: Sequence[_Scored]) -> dict[str, Any]:
    """Return the fields of :class:`Scores`."""
    by_image = [image.seeds for image in images]
    values: dict[str, float] = {}
    for column, field in _FIELDS.items():
        values[column], values[f"{column}_std"] = mean_and_std(_seed_means(by_image, field))
    values["pq_pooled"] = panoptic_quality([score for seeds in by_image for score in seeds])
    return {
        "n_undefined": sum(seeds[0].undefined for seeds in by_image),
        "n_no_prediction": sum(any(score.no_prediction for score in seeds) for seeds in by_image),
        **{name: nan_to_none(value) for name, value in values.items() if name in Scores.model_fields},
        **_extras([image.extras for image in images]),
    }


def _extras(images: Sequence[Sequence[ImageExtras | None]]) -> dict[str, Any]:
    """Return the further fields of :class:`Scores`, null where there are not those of every image and seed."""
    by_image = [[extras for extras in seeds if extras is not None] for seeds in images]
    found = [extras for seeds in by_image for extras in seeds]
    if not found or len(found) < sum(map(len, images)):
        return dict.fromkeys((*EXTRA_SCALARS, "pq_by_length", "recall_by_length"))
    means = {name: mean_and_std(_seed_means(by_image, name))[0] for name in EXTRA_SCALARS}
    return {**{name: nan_to_none(mean) for name, mean in means.items()}, **by_length_to_json(found)}


def _seed_means(images: Iterable[Sequence[ImageScores | ImageExtras]], field: str) -> Iterator[float]:
    """Yield each image's mean over the seeds that have this score."""
    for seeds in images:
        yield mean_and_std(getattr(score, field) for score in seeds)[0]


def _ranked(plain: Sequence[Row]) -> Iterator[Row]:
    for _, found in groupby(sorted(plain, key=lambda row: row.board), key=lambda row: row.board):
        board = list(found)
        ranked = sorted((row for row in board if _is_ranked(row)), key=_pq, reverse=True)
        yield from (row for row in board if not _is_ranked(row))
        intervals = rank_intervals(compare_all(pq_by_image(ranked)), len(ranked))
        for row, (first, last) in zip(ranked, intervals, strict=True):
            yield row.model_copy(update={"rank": str(first) if first == last else f"{first}-{last}"})


def pq_by_image(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return PQ of shape (rows, images), over the images that any row has; NaN where one has none."""
    names = sorted({name for row in rows for name in row.images})
    none = ImagePQ(nan, "")
    return np.array([[row.images.get(name, none).pq for name in names] for row in rows])


def _is_ranked(row: Row) -> bool:
    return row.status == "ok" and row.pq is not None and not (row.control or row.partial)


def _pq(row: Row) -> float:
    """Return the PQ to sort by; a row without one comes last."""
    return row.pq or 0.0


def _told_apart(ranked: Iterable[Row]) -> Iterator[Row]:
    """Give rows their variant: the settings that are not the preset's, and those in which look-alikes differ."""
    alike: defaultdict[Hashable, list[Row]] = defaultdict(list)
    for row in ranked:
        looks = (row.method, row.preset, row.weights, row.device, row.precision)
        alike[(row.board, looks)].append(row)
    for group in alike.values():
        settings = [dict(flatten(row.settings)) for row in group]
        for row, own in zip(group, settings, strict=True):
            differing = [name for name in own if any(other.get(name) != own[name] for other in settings)]
            named = dict.fromkeys([*row.changes, *differing])
            told = [f"{name}={own[name]}" for name in named if name in own]
            variant = ", ".join([*([_NESTED] if row.nested else []), *told])
            yield row.model_copy(update={"variant": variant or None})


def _order(row: Row) -> tuple[Any, ...]:
    return (row.board, row.control, row.rank is None, -_pq(row), row.method, row.variant or "")
