"""Rows -> text that programs read (JSON, CSV) or that goes into a page (Markdown)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter
from tabulate import tabulate

from crystalbench.config import flatten
from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._rows import Row

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#&])")
_COLUMNS = (
    _cells.RANK,
    _cells.METHOD,
    *_cells.SCORES,
    *_cells.MODEL,
    *_cells.SETTINGS,
    _cells.IMAGES,
    _cells.STATUS,
)


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as a JSON list: fractions, not percent; null where a value is unknown."""
    return TypeAdapter(list[Row]).dump_json(list(rows), indent=1).decode() + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV with a header.

    Nested values have a column each (``by_class.1.pq``), lists are JSON, an unknown value is empty. A column
    is there where any row has it.
    """
    flat = [dict(flatten(row)) for row in json.loads(to_json(rows))]
    columns = dict.fromkeys(column for row in flat for column in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _csv_cell(value) for column, value in row.items()} for row in flat)
    return text.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown (GitHub's tables): for each board the ranking and PQ by class."""
    return "\n".join(_markdown_board(board) for board in _cells.boards(rows))


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _markdown_board(board: Sequence[Row]) -> str:
    ranking = [[column.cell(row) for column in _COLUMNS] for row in board]
    by_class = [[_cells.name(row), *map(_cells.class_cell, row.by_class.values())] for row in board]
    remarks = [f"- {_escaped(line)}" for line in _cells.remarks(board)]
    parts = [
        f"## {_escaped(_cells.heading(board))}",
        _markdown_table([column.header for column in _COLUMNS], ranking, [column.justify for column in _COLUMNS]),
        f"{_escaped(_cells.statement(board))} {_cells.reading(board)}",
        "PQ % by difficulty class (number of images)",
        _markdown_table(["method", *_cells.CLASSES], by_class, ["left", "right", "right", "right"]),
        "\n".join(remarks),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(headers: Sequence[str], cells: Sequence[Sequence[str]], justify: Sequence[str]) -> str:
    escaped = [[_escaped(cell) for cell in row] for row in cells]
    one_line = [_cells.plain(header) for header in headers]
    return tabulate(escaped, one_line, tablefmt="pipe", disable_numparse=True, colalign=justify)


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
