"""Rows and the records behind them -> pandas frames, for notebooks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crystalbench._exceptions import ConfigurationError
from crystalbench.config import flatten
from crystalbench.evaluation import ImageExtras, ImageScores
from crystalbench.evaluation._extras import EXTRA_SCALARS
from crystalbench.evaluation._scores import SCALARS
from crystalbench.experiment._record import ImageRecord, Record
from crystalbench.leaderboard._board import chosen_records
from crystalbench.leaderboard._formats import to_json
from crystalbench.leaderboard._rows import Row, rows

if TYPE_CHECKING:
    from pandas import DataFrame

_OF_ROW = ("method", "title", "variant", "control", "dataset")
_OF_IMAGE = ("image", "group", "difficulty", "status", "error", "seconds")
_IMAGES = ("row", *_OF_ROW, "seed", "fold", *_OF_IMAGE, *SCALARS, *EXTRA_SCALARS)
_CRYSTALS = ("row", *_OF_ROW, "seed", "fold", "image", "kind", "length_px", "iou")


class Runs(NamedTuple):
    """Results as pandas frames: fractions, not percent; pixels; seconds; NaN where a value is unknown or undefined.

    Attributes
    ----------
    board
        The rows of ``crystalbench leaderboard --format json``, in their order, under the same names; nested values have
        a column each, as in CSV (``by_class.1.pq``).
    images
        One row for each image and seed of each row of the board, whose index is in the column ``row``: the counts and
        scores of :class:`crystalbench.ImageScores`, and ``aji_plus splits merges dg``, which older records lack.
    crystals
        One row for each crystal: ``kind`` is matched, missed or spurious; ``length_px`` the longer side of its bounding
        box, in a matched pair that of the truth's crystal; ``iou`` that of the pair. None of older records.
    """

    board: DataFrame
    images: DataFrame
    crystals: DataFrame


def load_runs(*folders: str | Path, data: str | None = None) -> Runs:
    """Read the results of runs into pandas frames.

    Parameters
    ----------
    folders
        Folders with records, as for ``crystalbench leaderboard --runs``; by default ``runs/``, and the published board
        where there is none.
    data
        This data set alone.

    Raises
    ------
    ConfigurationError
        Where there are no records, a folder does not exist, or pandas is not installed.
    UnknownNameError
        Where no record is of the data set ``data``.
    """
    frame = _frames()
    records = chosen_records([Path(folder) for folder in folders] or None, data)
    board = rows(records)
    images = list(_images(board, records))
    return Runs(
        frame(dict(flatten(row)) for row in json.loads(to_json(board))),
        frame((_image(*image) for image in images), _IMAGES),
        frame((crystal for image in images for crystal in _crystals(*image)), _CRYSTALS),
    )


def _frames() -> Callable[..., DataFrame]:
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise ConfigurationError("load_runs needs pandas: pip install 'crystalbench[notebook]'") from error

    def frame(found: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> DataFrame:
        # With None a column of unknown numbers alone would be one of objects.
        known = [{name: math.nan if value is None else value for name, value in row.items()} for row in found]
        return DataFrame(known, columns=columns)

    return frame


def _images(board: Sequence[Row], records: Sequence[Record]) -> Iterator[tuple[dict[str, Any], ImageRecord]]:
    """Yield what tells the images of each row's records from those of others, and each image."""
    by_key = {record.key: record for record in records}
    for number, row in enumerate(board):
        told = {"row": number, **{name: getattr(row, name) for name in _OF_ROW}}
        for record in (by_key[key] for key in row.key):
            where = {**told, "seed": record.seed, "fold": record.split.fold}
            yield from ((where, image) for image in record.images)


def _image(told: dict[str, Any], image: ImageRecord) -> dict[str, Any]:
    scores, extras = _scores(image)
    return {
        **told,
        **{name: getattr(image, name) for name in _OF_IMAGE},
        **(scores.to_json() if scores else {}),
        **({name: getattr(extras, name) for name in EXTRA_SCALARS} if extras else {}),
    }


def _crystals(told: dict[str, Any], image: ImageRecord) -> Iterator[dict[str, Any]]:
    scores, extras = _scores(image)
    if scores is None or extras is None:
        return
    told = {**told, "image": image.image}
    for length, (intersection, union) in zip(extras.lengths_matched, scores.matches, strict=True):
        yield {**told, "kind": "matched", "length_px": length, "iou": intersection / union}
    for kind, lengths in (("missed", extras.lengths_missed), ("spurious", extras.lengths_surplus)):
        yield from ({**told, "kind": kind, "length_px": length} for length in lengths)


def _scores(image: ImageRecord) -> tuple[ImageScores | None, ImageExtras | None]:
    if image.scores is None:
        return None, None
    scores = ImageScores.from_row(image.scores)
    return scores, None if image.extras is None else ImageExtras.from_row(scores, image.extras)
