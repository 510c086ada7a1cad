"""Tables -> Markdown, LaTeX, CSV, and the list of where each number comes from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate

from crystalbench.leaderboard._formats import _escaped as _markdown_escaped
from crystalbench.leaderboard._latex import _escaped as _latex_escaped
from crystalbench.paper._tables import Entry, Line, Table

REPORTED = "reported"
REPORTED_HERE = f"{REPORTED} on other data"
ON_OTHER_DATA = "Reported by Neubauer et al. 2024 on other data (theirs, which are not public): not comparable."

_SYMBOLS = {
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": "$^2$",
    "✓": r"$\checkmark$",
    "₁": "$_1$",
    "_N": "$_N$",
    "…": r"\dots{}",
}
_LATEX = r"""%% needs \usepackage{amssymb,booktabs,graphicx}
\begin{table*}
\caption{%(caption)s}
\centering\footnotesize
\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%%
\begin{tabular}{%(justify)s}
\toprule
%(header)s
\midrule
%(body)s
\bottomrule
\end{tabular}}
\end{table*}
"""


def to_markdown(table: Table) -> str:
    """Return a table as Markdown (GitHub's), the best in bold; a figure of the paper is in italics."""
    headers = [*table.labels, *(header for column in table.columns for header in (column.full, REPORTED_HERE))]
    lines = [
        [*map(_markdown_escaped, labels), *(cell for cells in _cells(table, line.entries) for cell in cells)]
        for line, labels in zip(table.lines, _shown_labels(table.lines), strict=True)
    ]
    justify = ["left"] * len(table.labels) + ["right"] * 2 * len(table.columns)
    escaped = [_markdown_escaped(header) for header in headers]
    return tabulate(lines, escaped, tablefmt="pipe", disable_numparse=True, colalign=justify) + "\n"


def _cells(table: Table, entries: Sequence[Entry]) -> Iterator[tuple[str, str]]:
    for column, entry in zip(table.columns, entries, strict=True):
        text = _markdown_escaped(column.text(entry))
        reported = _markdown_escaped(column.text(entry.reported))
        yield f"**{text}**" if entry.is_best else text, f"*{reported}*" if entry.reported else reported


def _shown_labels(lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Yield the labels of each line; a first label that is that of the line above is not said twice."""
    above = None
    for line in lines:
        yield ("" if line.labels[0] == above else line.labels[0], *line.labels[1:])
        above = line.labels[0]


def to_latex(table: Table) -> str:
    """Return a table as LaTeX (UTF-8; booktabs, amssymb, graphicx), the best in bold, the paper's figures in italics.

    The keys of the records stand in comments.
    """
    records = (f"% {name}: {', '.join(keys)}" for name, keys in table.records.items())
    caption = f"{table.title}. {table.statement} {' '.join(table.notes)} Italics: {ON_OTHER_DATA}"
    return "\n".join([*map(_one_line, records), ""]) + _LATEX % {
        "caption": _latex(caption),
        "justify": "l" * len(table.labels) + "r" * 2 * len(table.columns),
        "header": "\n".join(_latex_headers(table)),
        "body": "\n".join(_latex_lines(table)),
    }


def _latex_headers(table: Table) -> Iterator[str]:
    groups = [(group, 2 * len(list(columns))) for group, columns in groupby(table.columns, lambda c: c.group)]
    if len(groups) > 1:
        spans = (rf"\multicolumn{{{width}}}{{c}}{{{_latex(group)}}}" for group, width in groups)
        yield _row(["", *[""] * (len(table.labels) - 1), *spans])
        yield " ".join(_rules(len(table.labels), [width for _, width in groups]))
    headers = (text for column in table.columns for text in (_latex(column.header), rf"\textit{{{REPORTED}}}"))
    yield _row([*map(_latex, table.labels), *headers])


def _rules(start: int, widths: Iterable[int]) -> Iterator[str]:
    for width in widths:
        yield rf"\cmidrule(lr){{{start + 1}-{start + width}}}"
        start += width


def _latex_lines(table: Table) -> Iterator[str]:
    for line, labels in zip(table.lines, _shown_labels(table.lines), strict=True):
        if line.is_apart:
            yield r"\midrule"
        cells = (
            text
            for column, entry in zip(table.columns, line.entries, strict=True)
            for text in (
                rf"\textbf{{{_latex(column.text(entry))}}}" if entry.is_best else _latex(column.text(entry)),
                rf"\textit{{{_latex(column.text(entry.reported))}}}",
            )
        )
        yield _row([*map(_latex, labels), *cells])


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    # N is an index in one place alone, whose underscore is escaped by now.
    escaped = _latex_escaped(text).replace(r"r\_N", "r_N")
    for symbol, command in _SYMBOLS.items():
        escaped = escaped.replace(symbol, command)
    return escaped


def _one_line(text: str) -> str:
    return " ".join(text.split())


def to_csv(table: Table) -> str:
    """Return a table as CSV, unrounded: for each column value, deviation, the paper's two, and the records' keys."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", "_std", "_reported", "_std_reported", "_records")
    writer.writerow([*table.labels, *(f"{column.name}{part}" for column in table.columns for part in parts)])
    for line in table.lines:
        writer.writerow([*line.labels, *(cell for entry in line.entries for cell in _csv_cells(entry))])
    return text.getvalue()


def _csv_cells(entry: Entry) -> list[float | str | None]:
    reported = entry.reported or (None, None)
    return [entry.value, entry.std, *reported, " ".join(entry.keys)]


def sources(table: Table) -> list[dict[str, Any]]:
    """Return for each number that was measured where it stands, its value, and the keys of its records."""
    return [
        {
            "table": table.name,
            "line": list(line.labels[: table.identifying]),
            "column": column.name,
            "value": entry.value,
            "std": entry.std,
            "printed": column.text(entry),
            REPORTED: entry.reported._asdict() if entry.reported else None,
            "records": list(entry.keys),
        }
        for line in table.lines
        for column, entry in zip(table.columns, line.entries, strict=True)
        if entry.value is not None
    ]
