"""The columns that people read, in the table and in Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal

import numpy as np

from crystalbench.evaluation import can_pass, smallest_p
from crystalbench.experiment._tuned import Tuning
from crystalbench.leaderboard._rows import ClassScores, Row, pq_by_image

NOTHING = "-"
_WARNINGS_SHOWN = 3


@dataclass(frozen=True)
class Column:
    """A column: its header, of two lines where that saves width, and how a row's cell is written.

    ``merit`` is what the best row has most of, where a column has a best.
    """

    header: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "right"
    merit: Callable[[Row], float | None] = lambda row: None


def plain(text: str) -> str:
    """Return ``text`` on one line and without control characters, as it may stand in a cell."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def boards(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows that may be compared with each other, board by board."""
    return [list(board) for _, board in groupby(rows, key=lambda row: row.board)]


def heading(board: Sequence[Row]) -> str:
    """Return what all rows of a board share, for its title."""
    row = board[0]
    trained = f", trained on {row.train_dataset}" if row.train_dataset else ""
    tested = row.split if row.split == row.split_name else f"{row.split} of split {row.split_name}"
    return plain(f"{row.dataset} ({tested}{trained})")


def name(row: Row) -> str:
    """Return the method's title, with the settings that tell it from rows of the same title."""
    return plain(f"{row.title} ({row.variant})" if row.variant else row.title)


def status(row: Row) -> str:
    """Return how the run ended, and why the row is not ranked where it is not."""
    words = ["control"] if row.control else []
    if row.limit is not None:
        words.append(f"partial, limit {row.limit}")
    if row.status != "ok":
        words.append(f"{row.status}: {row.error['type']}" if row.error else row.status)
    elif row.n_failed:
        words.append(f"partial, {row.n_failed} failed")
    elif row.partial and row.limit is None:
        words.append("partial, folds are missing")
    return plain(", ".join(words)) or "ok"


def seeds(row: Row) -> str:
    """Return the seeds, which the row is the mean of."""
    return ",".join(map(str, row.seeds))


def percent(value: float | None, std: float | None = None) -> str:
    """Write a fraction in percent, with its standard deviation where there is one."""
    if value is None:
        return NOTHING
    return f"{100 * value:.1f}" if std is None else f"{100 * value:.1f} ± {100 * std:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval of fractions in percent."""
    return NOTHING if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def count(value: int | None) -> str:
    """Write a number of parameters as papers do: 12.1M."""
    if not value:
        return NOTHING
    return f"{value / 1e6:.1f}M" if value >= 1e5 else str(value)


def class_cell(scores: ClassScores) -> str:
    """Return PQ and number of images of one difficulty class."""
    return f"{percent(scores.pq, scores.pq_std)} ({scores.n})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def seconds(value: float | None) -> str:
    """Write seconds with three digits."""
    return NOTHING if value is None else f"{value:.3g}"


def _latency(row: Row) -> str:
    reference = "" if row.latency_reference_s is None else f" ({seconds(row.latency_reference_s)})"
    return f"{seconds(row.latency_s)}{reference}"


def _images(row: Row) -> str:
    return f"{row.n_images} ({row.n_undefined}, {row.n_failed})"


def _acs(row: Row) -> str:
    return f"{_number(row.acs)} / {_number(row.acs_truth)}"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


RANK = Column("rank", lambda row: row.rank or NOTHING)
METHOD = Column("method", name, "left")
INPUT = Column("input\npx", lambda row: str(row.input_size or NOTHING))
PARAMETERS = Column("params", lambda row: count(row.parameters))
ACS = Column("ACS / truth\npx", _acs)
LATENCY = Column("latency s\n(reference)", _latency, merit=lambda row: _negative(row.latency_s))
PQ_INTERVAL = Column("95 % of\nmean PQ", lambda row: interval(row.pq_low, row.pq_high))
MAE = Column("MAE ACS\npx", lambda row: _number(row.mae_acs), merit=lambda row: _negative(row.mae_acs))
SCORES = (
    Column("PQ %", lambda row: percent(row.pq, row.pq_std), merit=lambda row: row.pq),
    PQ_INTERVAL,
    Column("AJI %", lambda row: percent(row.aji, row.aji_std), merit=lambda row: row.aji),
    MAE,
    Column("MRE ACS\n%", lambda row: percent(row.mre_acs, row.mre_acs_std), merit=lambda row: _negative(row.mre_acs)),
    ACS,
)
MODEL = (PARAMETERS, INPUT, LATENCY)
SETTINGS = (
    Column("device", lambda row: row.device, "left"),
    Column("preset", lambda row: row.preset, "left"),
    Column("weights", lambda row: row.weights or NOTHING, "left"),
    Column("seeds", seeds, "left"),
)
IMAGES = Column("n\n(undef.,\nfailed)", _images)
STATUS = Column("status", status, "left")

CLASSES = ("class 1\n(no giant)", "class 2\n(giant and tiny)", "class 3\n(giants, none tiny)")


def _folded(row: Row) -> str:
    """Return the title, below it the settings, and below them the status where there is one to tell."""
    told = [status(row)] if status(row) != "ok" else []
    return "\n".join([name(row), plain(", ".join(column.cell(row) for column in SETTINGS)), *told])


FOLDED_METHOD = Column("method\ndevice, preset,\nweights, seeds", _folded, "left")


def statement(board: Sequence[Row]) -> str:
    """Return what the scores of a board stand on: data, presets, weights, devices and seeds."""
    shown = {
        "preset": {row.preset for row in board},
        "initial weights": {row.weights for row in board if row.weights} or {"none"},
        "device": {f"{row.device} ({row.device_name})" for row in board},
        "seed": {str(seed) for row in board for seed in row.seeds},
    }
    parts = [f"{kind} {', '.join(sorted(values))}" for kind, values in shown.items()]
    row = board[0]
    identity = f"content {row.dataset_sha256[:12]}, split {row.split_sha256[:12]}, classes at {row.class_px} px"
    return plain(f"Data set {heading(board)}, {identity}; {'; '.join(parts)}.")


def reading(board: Sequence[Row]) -> str:
    """Return how the figures of a board are to be read."""
    told = [
        "Mean ± standard deviation over test images, seeds averaged per image first; in brackets the 95 % bootstrap",
        "interval of the mean, images resampled by group.",
        *_ranking(board),
        "Controls, partial and failed rows are not ranked. Undefined: the truth has no crystal.",
    ]
    if any(row.weights == "random" for row in board):
        told.append("Random weights: trained from scratch, not fine-tuned.")
    if not comparable_latencies(board):
        told.append("Latencies of different machines or protocols are not comparable: see latency_conditions in JSON.")
    return " ".join(told)


def comparable_latencies(board: Sequence[Row]) -> bool:
    """Say whether all latencies of a board were measured on one machine by one protocol."""
    return len({row.latency_conditions for row in board if row.latency_s is not None}) <= 1


def _ranking(board: Sequence[Row]) -> list[str]:
    """Say what the ranks are, and where no test can tell apart any two of them."""
    defined = ~np.isnan(pq_by_image([row for row in board if row.rank]))
    pairs = list(combinations(defined, 2))
    if not pairs:
        return ["Ranked by PQ."]
    n = max(int((a & b).sum()) for a, b in pairs)
    return [
        "Ranked by PQ; a rank spans all methods from which this one is not told apart (two-sided Wilcoxon signed-rank",
        f"test over images at the level 0.05, Holm's correction for {len(pairs)} comparisons).",
        *([] if can_pass(n, len(pairs)) else [too_few(n, len(pairs))]),
    ]


def too_few(n: int, comparisons: int) -> str:
    """Say that no difference on ``n`` images can be significant after correction for so many comparisons."""
    smallest = f"no p is below {smallest_p(n):.2g} with n = {n}"
    return f"Too few images for any test to pass: {smallest}, before correction for {comparisons} comparisons."


def remarks(board: Sequence[Row]) -> list[str]:
    """Return the means of folds, what tuning cost, errors and the first warnings of a board's rows, one line each."""
    folds = [f"{name(row)}: mean PQ % of {_by_fold(row)}" for row in board if row.by_fold]
    tuned = [f"{name(row)}: {_tuned(row.tuning)}" for row in board if row.tuning]
    errors = [f"{name(row)}: {row.status}: {row.error['message']}" for row in board if row.error]
    warnings = [f"{name(row)}: {warning}" for row in board for warning in _first_warnings(row)]
    return list(dict.fromkeys(plain(line) for line in folds + tuned + errors + warnings))


def _by_fold(row: Row) -> str:
    return ", ".join(f"fold {fold} {percent(scores.pq)}" for fold, scores in row.by_fold.items())


def _tuned(cost: Tuning) -> str:
    parts = ", ".join(f"{count} of {component}" for component, count in cost.trainings_by_component.items())
    trainings = f"{cost.trainings} trainings{f' ({parts})' if parts else ''}"
    return f"tuned: {trainings}, {cost.points} points, {cost.device_s:,.0f} s on the device"


def _first_warnings(row: Row) -> list[str]:
    more = len(row.warnings) - _WARNINGS_SHOWN
    shown = [f"warning: {warning}" for warning in row.warnings[:_WARNINGS_SHOWN]]
    return [*shown, f"{more} more warnings, see --format json"] if more > 0 else shown
