"""What ``crystalbench leaderboard`` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console, RenderableType

from crystalbench._console import PAGE_WIDTH, screen
from crystalbench._exceptions import ConfigurationError, UnknownNameError
from crystalbench._files import write_atomic
from crystalbench._paths import data_dir
from crystalbench.experiment._record import Record
from crystalbench.leaderboard._formats import to_csv, to_json, to_markdown
from crystalbench.leaderboard._html import write_page
from crystalbench.leaderboard._latex import to_latex
from crystalbench.leaderboard._load import Stored, load_stored
from crystalbench.leaderboard._rows import Row, rows
from crystalbench.leaderboard._significance import comparison_table, comparisons_json
from crystalbench.leaderboard._table import to_table

_logger = logging.getLogger("crystalbench")
_DEFAULT = Path("runs")
_PAGE = Path("leaderboard.html")


def leaderboard(
    runs: Sequence[Path] | None = None,
    data: str | None = None,
    format: str = "table",
    out: Path | None = None,
    significance: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> str | None:
    """Return the leaderboard of some runs as text, or write it to a file.

    A page (``html``) is always a file, ``leaderboard.html`` without ``out``, whose name is returned then. With over 50
    test images its pictures lie in a folder beside it, such as ``leaderboard_files``.

    Parameters
    ----------
    runs
        Folders with records; by default ``runs/``, and the published board where there is none.
    data
        Show this data set alone.
    format
        ``table``, ``json``, ``csv``, ``markdown``, ``latex`` or ``html``.
    out
        File to write; nothing is returned then.
    significance
        Return the comparisons of the ranked rows, as ``table`` or ``json``, in place of the ranking.
    report
        Called with how many test images of a page are drawn, and of how many.

    Raises
    ------
    UnknownNameError
        Where no record is of the data set ``data``, or there is no such format.
    ConfigurationError
        Where there are no records, a folder of ``runs`` does not exist, or the page lacks what it is made with.
    """
    table, formats = (comparison_table, _COMPARISONS) if significance else (to_table, FORMATS)
    if format == "html" and not significance:
        write_page(_of_data(_stored(runs), data), out or _PAGE, report)
        return f"{_PAGE}\n" if out is None else None
    if format not in formats:
        known = formats if significance else [*formats, "html"]
        raise UnknownNameError("format of comparisons" if significance else "format", format, known)
    chosen = rows(chosen_records(runs, data))
    if out is None:
        return _text(table(chosen), screen()) if format == "table" else formats[format](chosen)
    write_atomic(out, formats[format](chosen).encode())
    return None


def board_text(records: Sequence[Record]) -> str:
    """Return the leaderboard of ``records`` as a table for the screen."""
    return _text(to_table(rows(records)), screen())


def chosen_records(runs: Sequence[Path] | None, data: str | None) -> list[Record]:
    """Return the records that :func:`leaderboard` shows; its parameters and errors are the same."""
    return [stored.record for stored in _of_data(_stored(runs), data)]


def _stored(runs: Sequence[Path] | None) -> list[Stored]:
    found = load_stored(runs if runs is not None else [_DEFAULT] if _DEFAULT.is_dir() else [])
    if not found and runs is None:
        _logger.warning("no records below %s/: this is the published board", _DEFAULT)
        found = load_stored([data_dir("leaderboard/records")])
    if not found:
        where = ", ".join(map(str, runs or [_DEFAULT]))
        raise ConfigurationError(f"{where}: no records; make some with: crystalbench run --method sima")
    return found


def _of_data(found: Sequence[Stored], data: str | None) -> list[Stored]:
    if data is None:
        return list(found)
    known = {stored.record.dataset.name for stored in found}
    if data not in known:
        raise UnknownNameError("data set", data, known)
    return [stored for stored in found if stored.record.dataset.name == data]


def _page(table: RenderableType) -> str:
    return _text(table, Console(width=PAGE_WIDTH, color_system=None))


def _text(table: RenderableType, console: Console) -> str:
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "table": lambda chosen: _page(to_table(chosen)),
    "json": to_json,
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}
_COMPARISONS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "table": lambda chosen: _page(comparison_table(chosen)),
    "json": comparisons_json,
}
