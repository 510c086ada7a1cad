"""Rows -> LaTeX tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._cells import Column
from crystalbench.leaderboard._rows import Row

_ESCAPED = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\char34{}",
    "±": r"$\pm$",
    # Two of these would become one character.
    "-": "-{}",
    "'": "'{}",
    # Behind the end of a line these would belong to it.
    "[": "{[}",
    "*": "{*}",
}
_SPECIAL = re.compile(r"""[{}$&#_%\\~^<>|`"±[*]|-(?=-)|'(?=')""")
_COLUMNS = (_cells.RANK, _cells.METHOD, *_cells.SCORES, _cells.PARAMETERS, _cells.LATENCY)
_FRAME = r"""\begin{%(kind)s}
\caption{%(caption)s}
\centering\footnotesize
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%%
\begin{tabular}{%(justify)s}
\toprule
%(header)s
\midrule
%(body)s
\bottomrule
\end{tabular}}
\end{%(kind)s}
"""


def to_latex(rows: Sequence[Row]) -> str:
    """Return the rows as LaTeX tables (UTF-8; booktabs, graphicx): for each board the ranking and PQ by class.

    The best value of each column among ranked rows is bold. Settings have a column where rows differ in them; what all
    share is in the caption.
    """
    tables = (table for board in _cells.boards(rows) for table in (_ranking(board), _by_class(board)))
    return "\n".join([r"% needs \usepackage{booktabs,graphicx}", *tables])


def _ranking(board: Sequence[Row]) -> str:
    told = [column for column in (*_cells.SETTINGS, _cells.STATUS) if len(set(map(column.cell, board))) > 1]
    caption = f"{_cells.statement(board)} {_cells.reading(board)} Bold: the best of the ranked rows."
    return _table("table*", caption, [*_COLUMNS, *told], board)


def _by_class(board: Sequence[Row]) -> str:
    columns = map(_class_column, board[0].by_class, _cells.CLASSES)
    caption = f"PQ % by difficulty class (number of images): {_cells.heading(board)}."
    return _table("table", caption, [_cells.METHOD, *columns], board)


def _class_column(number: str, header: str) -> Column:
    return Column(
        header, lambda row: _cells.class_cell(row.by_class[number]), merit=lambda row: row.by_class[number].pq
    )


def _table(kind: str, caption: str, columns: Sequence[Column], board: Sequence[Row]) -> str:
    best = {column: _best(column, board) for column in columns}
    lines = [_line(_cell(column, row, best[column]) for column in columns) for row in board]
    n = sum(row.rank is not None for row in board)
    parts = ["\n".join(part) for part in (lines[:n], lines[n:]) if part]
    return _FRAME % {
        "kind": kind,
        "caption": _escaped(caption),
        "justify": "".join(column.justify[0] for column in columns),
        "header": _line(_escaped(_cells.plain(column.header)) for column in columns),
        "body": "\n\\midrule\n".join(parts),
    }


def _best(column: Column, board: Sequence[Row]) -> float | None:
    """Return the highest merit of the ranked rows, None where they cannot be compared."""
    if column is _cells.LATENCY and not _cells.comparable_latencies(board):
        return None
    merits = [merit for row in board if row.rank and (merit := column.merit(row)) is not None]
    return max(merits) if len(merits) > 1 else None


def _cell(column: Column, row: Row, best: float | None) -> str:
    text = _escaped(column.cell(row))
    return rf"\textbf{{{text}}}" if best is not None and row.rank and column.merit(row) == best else text


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: _ESCAPED[match[0]], text)
