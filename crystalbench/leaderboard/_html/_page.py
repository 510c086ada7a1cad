"""Records -> one page of HTML that needs no network, and files beside it where there are many images."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from math import isnan
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from crystalbench import _devices
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import write_atomic
from crystalbench.config import flatten
from crystalbench.leaderboard import _cells
from crystalbench.leaderboard._formats import to_json
from crystalbench.leaderboard._html import _pictures
from crystalbench.leaderboard._html._entries import Entry, entries, part
from crystalbench.leaderboard._html._figures import board_figures, curves_figure
from crystalbench.leaderboard._html._gallery import Beside, Gallery, Store, inline
from crystalbench.leaderboard._html._sources import Curve, command, shown_path, training_curves
from crystalbench.leaderboard._html._table import COLUMNS, groups
from crystalbench.leaderboard._load import Stored
from crystalbench.leaderboard._rows import Row, rows
from crystalbench.leaderboard._significance import Comparison, comparisons

Report = Callable[[int, int], None]

INLINE_IMAGES = 50
"""With more test images the pictures of a page are files beside it."""

_EXTREME = 3


@dataclass(frozen=True)
class Board:
    """One board of the page."""

    number: int
    entries: Sequence[Entry]
    pairs: Sequence[Comparison]
    gallery: Gallery

    @property
    def rows(self) -> list[Row]:
        """The rows, in their order."""
        return [entry.row for entry in self.entries]

    @property
    def ranked(self) -> list[Entry]:
        """Entries with a rank."""
        return [entry for entry in self.entries if entry.row.rank]

    @property
    def others(self) -> list[Entry]:
        """Entries that are not ranked."""
        return [entry for entry in self.entries if not entry.row.rank]

    @cached_property
    def groups(self) -> dict[int, str]:
        """The letters of each ranked entry; see :func:`~crystalbench.leaderboard._html._table.groups`."""
        return groups(self.entries, self.pairs)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures by name."""
        return board_figures(self.entries)

    @cached_property
    def curves(self) -> dict[int, dict[str, Curve]]:
        """The training curves of each entry that has any."""
        found = {entry.index: _curves(entry) for entry in self.entries}
        return {index: curves for index, curves in found.items() if curves}

    def extremes(self, entry: Entry) -> dict[str, list[tuple[int, str, float]]]:
        """Return index, name and PQ of the images that an entry is worst and best on."""
        found = [
            (index, name, entry.images[name].pq)
            for index, name in enumerate(self.gallery.names)
            if name in entry.images and not isnan(entry.images[name].pq)
        ]
        ordered = sorted(found, key=lambda image: image[2])
        return {"worst": ordered[:_EXTREME], "best": ordered[::-1][:_EXTREME]}


def _curves(entry: Entry) -> dict[str, Curve]:
    """Return the curves of all seeds and folds; these are named where there are several."""
    several = len(entry.seeds) > 1
    return {
        f"{part(stored.record)}, {name}" if several else name: curve
        for stored in entry.seeds
        for name, curve in training_curves(stored).items()
    }


def write_page(stored: Sequence[Stored], out: Path, report: Report | None = None) -> None:
    """Write the page of some records.

    Parameters
    ----------
    stored
        What :func:`~crystalbench.leaderboard._load.load_stored` returns.
    out
        The page. With over 50 test images the pictures lie in a folder beside it, whose name is that of the page
        with ``_files`` in place of the suffix.
    report
        Called with how many test images are drawn, and of how many.

    Raises
    ------
    ConfigurationError
        Where ``out`` is a folder.
    """
    if out.is_dir():
        raise ConfigurationError(f"--out {out} is a folder: name the page, as in {out / 'leaderboard.html'}")
    chosen = rows([one.record for one in stored])
    boards = _boards(chosen, {one.record.key: one for one in stored})
    count = sum(len(board.gallery.names) for board in boards)
    folder = out.with_name(f"{out.stem}_files") if count > INLINE_IMAGES else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    cases = _draw(boards, Beside(folder) if folder else inline, count, report)
    write_atomic(out, _render(chosen, boards, cases, folder is not None).encode())


def _boards(chosen: Sequence[Row], stored: Mapping[str, Stored]) -> list[Board]:
    pairs = comparisons(chosen)
    found = []
    for number, board in enumerate(_cells.boards(chosen)):
        made = entries(board, stored)
        keys = {tuple(row.key) for row in board}
        found.append(Board(number, made, [p for p in pairs if tuple(p.key_a) in keys], Gallery.of(number, made)))
    return found


def _draw(boards: Sequence[Board], store: Store, count: int, report: Report | None) -> list[list[dict[str, Any]]]:
    """Return the cases of each board; drawing spends its time in libraries that let other threads work."""
    done = 0
    cases: list[list[dict[str, Any]]] = []
    with ThreadPoolExecutor(_devices.cores()) as pool:
        for board in boards:
            cases.append([])
            for case in pool.map(partial(board.gallery.case, store=store), range(len(board.gallery.names))):
                cases[-1].append(case)
                done += 1
                if report:
                    report(done, count)
    return cases


def _render(
    chosen: Sequence[Row], boards: Sequence[Board], cases: Sequence[Sequence[dict[str, Any]]], has_files: bool
) -> str:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "cells": _cells,
        "columns": COLUMNS,
        "command": command,
        "part": part,
        "shown_path": shown_path,
        "shell": shlex.join,
    }
    environment.filters |= {"flat": _flat, "told": _told, "seconds": _cells.seconds}
    scripts = [get_plotlyjs(), _file("page.js")]
    return environment.get_template("page.html.j2").render(
        boards=boards,
        style=_file("page.css"),
        scripts=scripts,
        policy=_policy(scripts, has_files),
        rows=json.loads(to_json(chosen)),
        data=[_board_data(board, found) for board, found in zip(boards, cases, strict=True)],
        error_colours={kind.name.lower(): colour for kind, colour in _pictures.COLOURS.items()},
        truth_colour=_pictures.TRUTH_COLOUR,
    )


def _board_data(board: Board, cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "entries": [{"name": e.name, "kind": e.kind, "colour": e.colour, "glyph": e.glyph} for e in board.entries],
        "figures": {**board.figures, **{f"curve-{i}": curves_figure(found) for i, found in board.curves.items()}},
        "cases": cases,
    }


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten(tree))


def _told(value: Any) -> str:
    if value is None:
        return _cells.NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], has_files: bool) -> str:
    """Return the page's Content-Security-Policy: its own scripts run, pictures are shown, and that is all.

    Styles may stand in the page, as plotly writes them; pictures may be files, which ``'self'`` does not mean for a
    page that is a file itself.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    images = "data: 'self' file:" if has_files else "data:"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )
