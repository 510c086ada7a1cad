"""Rows with the records that they are made of, as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import isnan, nan

from crystalbench.evaluation import ImageScores
from crystalbench.evaluation._summary import mean_and_std
from crystalbench.experiment import Record
from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._load import Stored
from crystalbench.leaderboard._rows import Row

# Of 3 : 1 contrast with the light and the dark page; the symbol tells apart what colour does not for all eyes.
COLOURS = ("#0a7ac4", "#d55e00", "#00936b", "#c0589a", "#8d6cd9", "#a37412", "#3f8f9b", "#c44e52")
_SYMBOLS = (
    ("circle", "●"),
    ("square", "■"),
    ("diamond", "◆"),
    ("triangle-up", "▲"),
    ("triangle-down", "▼"),
    ("cross", "✚"),
    ("star", "★"),
    ("hexagon", "⬢"),
)
_UNRANKED = ("#808080", "x", "✖")


@dataclass(frozen=True)
class ImageMeans:
    """Scores of one image, means over the seeds; NaN where undefined."""

    pq: float
    acs: float
    acs_truth: float
    relative_error: float


@dataclass(frozen=True)
class Entry:
    """A row, the records of its seeds and folds, and how it is drawn."""

    row: Row
    seeds: Sequence[Stored]
    index: int
    colour: str
    symbol: str
    glyph: str

    @property
    def name(self) -> str:
        """The method's title, with what tells it from rows of the same title."""
        return _cells.name(self.row)

    @property
    def kind(self) -> str:
        """What the filter of the table calls it."""
        if self.row.control:
            return "control"
        if self.row.status != "ok":
            return "failed"
        return "ranked" if self.row.rank else "partial"

    @cached_property
    def scores(self) -> dict[str, list[ImageScores]]:
        """The scores of each image, one for each seed that has them."""
        found: dict[str, list[ImageScores]] = {}
        for stored in self.seeds:
            for image in stored.record.images:
                if image.scores is not None:
                    found.setdefault(image.image, []).append(ImageScores.from_row(image.scores))
        return found

    @cached_property
    def images(self) -> dict[str, ImageMeans]:
        """What each image scores."""
        return {name: _means(seeds) for name, seeds in self.scores.items()}


def _means(seeds: Sequence[ImageScores]) -> ImageMeans:
    return ImageMeans(
        pq=mean_and_std(one.pq for one in seeds)[0],
        acs=mean_and_std(one.acs_prediction for one in seeds)[0],
        acs_truth=mean_and_std(one.acs_truth for one in seeds)[0],
        relative_error=mean_and_std(nan if isnan(one.acs_truth) else one.acs_relative_error for one in seeds)[0],
    )


def part(record: Record) -> str:
    """Return which part of a row a record is: its seed, and its fold where there are folds."""
    return f"seed {record.seed}, fold {record.split.fold}" if record.split.fold else f"seed {record.seed}"


def entries(board: Sequence[Row], stored: Mapping[str, Stored]) -> list[Entry]:
    """Return the entries of a board; ``stored`` holds its records by key."""
    places = count()
    return [
        Entry(row, [stored[key] for key in row.key], index, *(_style(next(places)) if row.rank else _UNRANKED))
        for index, row in enumerate(board)
    ]


def _style(place: int) -> tuple[str, str, str]:
    """Return colour, symbol and glyph, another pair for each of the first 64."""
    turn, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], *_SYMBOLS[(colour + turn) % len(_SYMBOLS)]
