"""Rows -> a table for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._cells import Column
from crystalbench.leaderboard._rows import Row

_Layout = tuple[list[Column], list[Column]]
_MIDDLE = (*_cells.SCORES, *_cells.MODEL)
_DROPPED_FIRST = (_cells.INPUT, _cells.PARAMETERS, _cells.ACS, _cells.PQ_INTERVAL, _cells.LATENCY, _cells.MAE)


def to_table(rows: Sequence[Row]) -> Group:
    """Return the rows as tables that fit the width they are printed at.

    For each board the ranking, what it stands on, and PQ by difficulty class. Where the width is short, the
    settings of a row move below the method's title, and then the least important columns go.
    """
    return Group(*(part for board in _cells.boards(rows) for part in _parts(board)))


def _parts(board: Sequence[Row]) -> Iterator[RenderableType]:
    yield _Ranking(board)
    for line in (_cells.statement(board), _cells.reading(board), *_cells.remarks(board)):
        yield Text(line, style="dim")
    yield Padding(_by_class(board), (1, 0))


class _Ranking:
    """A board's table, whose columns are chosen when it is printed."""

    def __init__(self, board: Sequence[Row]) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, dropped = self._layout(console, options)
        yield _ranking(self._board, columns)
        if dropped:
            names = ", ".join(_cells.plain(column.header) for column in dropped)
            yield Text(f"Not shown at this width: {names}.", style="dim")

    def _layout(self, console: Console, options: ConsoleOptions) -> _Layout:
        unlimited = options.update(max_width=sys.maxsize)
        layouts = _layouts()
        for layout in layouts:
            table = _ranking(self._board, layout[0])
            if Measurement.get(console, unlimited, table).maximum <= options.max_width:
                return layout
        return layouts[-1]


def _layouts() -> list[_Layout]:
    """Return columns to show and columns left out, from the widest layout to the narrowest."""
    wide = [_cells.RANK, _cells.METHOD, *_MIDDLE, *_cells.SETTINGS, _cells.IMAGES, _cells.STATUS]
    return [(wide, []), *(_narrow(list(_DROPPED_FIRST[:n])) for n in range(len(_DROPPED_FIRST) + 1))]


def _narrow(dropped: list[Column]) -> _Layout:
    middle = [column for column in _MIDDLE if column not in dropped]
    return [_cells.RANK, _cells.FOLDED_METHOD, *middle, _cells.IMAGES], dropped


def _ranking(board: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = titled_table(_cells.heading(board))
    for column in columns:
        table.add_column(column.header, justify=column.justify, overflow="fold")
    for row in board:
        table.add_row(*(Text(column.cell(row)) for column in columns), style=_style(row))
    return table


def _by_class(board: Sequence[Row]) -> Table:
    table = titled_table("PQ % by difficulty class (number of images)")
    table.add_column("method", overflow="fold")
    for header in _cells.CLASSES:
        table.add_column(header, justify="right")
    for row in board:
        cells = map(_cells.class_cell, row.by_class.values())
        table.add_row(Text(_cells.name(row)), *map(Text, cells), style=_style(row))
    return table


def titled_table(title: str) -> Table:
    """Return a table without columns, in the style of the board."""
    heading = Text(title, style="bold")
    return Table(
        title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )


def _style(row: Row) -> str:
    return "dim" if row.control else ""
