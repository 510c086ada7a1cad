"""Rows -> comparisons: which of the ranked rows of a board differ by more than chance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict, TypeAdapter
from rich.console import Group, RenderableType
from rich.text import Text

from crystalbench.evaluation import PairedComparison, can_pass, compare_all, mean_interval, smallest_p
from crystalbench.evaluation._scores import nan_to_none
from crystalbench.evaluation._statistics import LEVEL, Floats
from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._rows import Row, pq_by_image
from crystalbench.leaderboard._table import titled_table

_TEST = "wilcoxon, two-sided, zero_method wilcox"
_NUMBERS = ("n", "PQ difference\nmean", "95 % of\nmean", "median", "p", "p\nBonferroni", "p\nHolm")


class Comparison(BaseModel):
    """PQ of two ranked rows of one board, compared over the images on which both have one.

    Differences are fractions, the first row's PQ minus the second's; the first is the one of higher mean PQ. ``key_a``
    and ``key_b`` are the keys of the records that the rows are made of, ``name_a`` and ``name_b`` what the table calls
    them. ``difference_low`` and ``difference_high`` are the 95 % bootstrap interval of the mean difference, by group.
    ``n_different``, ``rank_biserial``, ``method`` and ``scipy`` are those of
    :class:`~crystalbench.evaluation.SignedRankTest`, and ``told_apart`` is that of
    :class:`~crystalbench.evaluation.PairedComparison`; p is corrected for all pairs of the board. ``smallest_p`` is the
    smallest that ``n_different`` pairs can reach. ``note`` says what else there is to know. Null where undefined.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    train_dataset: str | None
    split: str
    split_name: str
    method_a: str
    method_b: str
    name_a: str
    name_b: str
    key_a: list[str]
    key_b: list[str]
    score: str = "pq"
    n: int
    n_different: int
    mean_difference: float | None
    difference_low: float | None
    difference_high: float | None
    median_difference: float | None
    rank_biserial: float
    p: float
    p_bonferroni: float
    p_holm: float
    smallest_p: float
    told_apart: bool
    test: str = _TEST
    method: str
    scipy: str
    note: str | None


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """Compare all ranked rows of each board with each other.

    Parameters
    ----------
    rows
        What :func:`~crystalbench.leaderboard.rows` returns.

    Returns
    -------
    list of Comparison
        Board by board, the best row with all others first.
    """
    return [comparison for board in _cells.boards(rows) for comparison in _of_board(board)]


def comparisons_json(rows: Sequence[Row]) -> str:
    """Return the comparisons as a JSON list: fractions, not percent; null where a value is undefined."""
    return TypeAdapter(list[Comparison]).dump_json(comparisons(rows), indent=1).decode() + "\n"


def comparison_table(rows: Sequence[Row]) -> Group:
    """Return the comparisons as a table for each board, and how it is to be read."""
    return Group(*(part for board in _cells.boards(rows) for part in _parts(board)))


def _of_board(board: Sequence[Row]) -> list[Comparison]:
    ranked = [row for row in board if row.rank]
    pq, groups = pq_by_image(ranked), _groups(ranked)
    pairs = compare_all(pq)
    return [_comparison(ranked, pair, pq[pair.a] - pq[pair.b], groups, len(pairs)) for pair in pairs]


def _groups(rows: Sequence[Row]) -> list[Hashable]:
    """Return the group of each image, in the order of :func:`pq_by_image`."""
    groups = {name: image.group for row in rows for name, image in row.images.items()}
    return [groups[name] for name in sorted(groups)]


def _comparison(
    ranked: Sequence[Row], pair: PairedComparison, differences: Floats, groups: Sequence[Hashable], count: int
) -> Comparison:
    a, b, test = ranked[pair.a], ranked[pair.b], pair.test
    low, high = mean_interval(differences, groups)
    return Comparison(
        dataset=a.dataset,
        train_dataset=a.train_dataset,
        split=a.split,
        split_name=a.split_name,
        method_a=a.method,
        method_b=b.method,
        name_a=_name(a, ranked),
        name_b=_name(b, ranked),
        key_a=a.key,
        key_b=b.key,
        n=test.n,
        n_different=test.n_different,
        mean_difference=nan_to_none(pair.mean_difference),
        difference_low=nan_to_none(low),
        difference_high=nan_to_none(high),
        median_difference=nan_to_none(pair.median_difference),
        rank_biserial=test.rank_biserial,
        p=test.p,
        p_bonferroni=pair.p_bonferroni,
        p_holm=pair.p_holm,
        smallest_p=smallest_p(test.n_different),
        told_apart=pair.told_apart,
        method=test.method,
        scipy=test.scipy,
        note=_note(pair, count),
    )


def _name(row: Row, ranked: Sequence[Row]) -> str:
    """Return the row's name, with its settings where another row has the same."""
    name = _cells.name(row)
    alike = Counter(map(_cells.name, ranked))[name] > 1
    return f"{name} [{', '.join(column.cell(row) for column in _cells.SETTINGS)}]" if alike else name


def _note(pair: PairedComparison, count: int) -> str | None:
    n, different = pair.test.n, pair.test.n_different
    if not n:
        return "no image on which both have a PQ"
    if not different:
        return "the same PQ on every image"
    if not can_pass(n, count):
        return _cells.too_few(n, count)
    if not can_pass(different, count):
        return f"PQ differs on {different} of {n} images alone: no p is below {smallest_p(different):.2g}"
    return "ranks and means favour different methods" if pair.p_holm <= LEVEL and not pair.told_apart else None


def _parts(board: Sequence[Row]) -> Iterator[RenderableType]:
    found = _of_board(board)
    table = titled_table(f"PQ of pairs of methods: {_cells.heading(board)}")
    for header in ("method", "compared with"):
        table.add_column(header, overflow="fold")
    for header in _NUMBERS:
        table.add_column(header, justify="right")
    table.add_column("told\napart")
    for comparison in found:
        table.add_row(*map(Text, _row(comparison)))
    yield table
    for line in (*_reading(found), *_notes(found)):
        yield Text(line, style="dim")


def _row(found: Comparison) -> list[str]:
    return [
        found.name_a,
        found.name_b,
        str(found.n),
        _cells.percent(found.mean_difference),
        _cells.interval(found.difference_low, found.difference_high),
        _cells.percent(found.median_difference),
        *(f"{p:.2g}" for p in (found.p, found.p_bonferroni, found.p_holm)),
        "yes" if found.told_apart else "no",
    ]


def _reading(found: Sequence[Comparison]) -> list[str]:
    if not found:
        return ["Nothing to compare: fewer than two rows are ranked."]
    return [
        "Differences in percentage points, the method's PQ minus that of the one it is compared with, over the n "
        "images that both have; in brackets the 95 % bootstrap interval of the mean, images resampled by group.",
        f"Two-sided Wilcoxon signed-rank test (SciPy {found[0].scipy}, method {found[0].method}): p as it is, and "
        f"corrected for {len(found)} comparisons. Told apart: Holm's p is at most {LEVEL}.",
    ]


def _notes(found: Sequence[Comparison]) -> Iterator[str]:
    """Yield each note with the pairs that it is about, where that is not all."""
    pairs: defaultdict[str, list[str]] = defaultdict(list)
    for comparison in found:
        if comparison.note:
            pairs[comparison.note].append(f"{comparison.name_a} and {comparison.name_b}")
    for note, names in pairs.items():
        yield note if len(names) == len(found) else f"{'; '.join(names)}: {note}"
