"""Everything that a study leaves for a manuscript, in one folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from crystalbench._files import write_atomic, write_json
from crystalbench.experiment._jobs import RECORD_FILE
from crystalbench.leaderboard import _cells as board_cells
from crystalbench.leaderboard import rows
from crystalbench.leaderboard._formats import _escaped
from crystalbench.paper._cases import Case, pick_cases
from crystalbench.paper._figures import KINDS, Marked, draw_case, draw_scatter
from crystalbench.paper._formats import ON_OTHER_DATA, REPORTED_HERE, sources, to_csv, to_latex, to_markdown
from crystalbench.paper._reported import CLDICE_OF_BOUNDARY, PAPER
from crystalbench.paper._results import Results
from crystalbench.paper._scatter import Point, by_method, correlation, points_to_csv, scatter
from crystalbench.paper._tables import Table, statement, tables, title_of

PAGE_FILE = "paper.md"
SOURCES_FILE = "sources.json"
_WRONG = tuple(kind for kind in KINDS if kind != "matched")


def write_paper(results: Results, folder: Path, report: Callable[[int, int], None]) -> Path:
    """Write the tables (Markdown, LaTeX, CSV), figures (PNG, PDF, CSV), their sources, and a page that shows all.

    Parameters
    ----------
    results
        What :func:`read_results` returns.
    folder
        Where to; what an earlier study has left there is replaced.
    report
        Called with how many images are read for figure 4, and of how many.

    Returns
    -------
    Path
        The page.
    """
    for stale in folder.glob("figure[456].*"):
        stale.unlink()
    titles = {name: title_of(name, result) for name, result in results.methods.items()}
    found = tables(results)
    for table in found:
        for suffix, write in (("md", to_markdown), ("tex", to_latex), ("csv", to_csv)):
            write_atomic(folder / f"{table.name}.{suffix}", write(table).encode())
    points = scatter(results, report)
    if points:
        write_atomic(folder / "figure4.csv", points_to_csv(points).encode())
        draw_scatter(points, titles, folder / "figure4")
    parts = [
        _heading(results),
        *(_table_part(table, _links(results, folder)) for table in found),
        _scatter_part(points, titles),
        *_case_parts(results, titles, folder),
        _remarks(results),
    ]
    write_json(folder / SOURCES_FILE, _sources(results, found, folder))
    write_atomic(folder / PAGE_FILE, "\n\n".join(filter(None, parts)).encode() + b"\n")
    return folder / PAGE_FILE


def _heading(results: Results) -> str:
    found = [result.row for result in results.methods.values()]
    n = max(row.n_images for row in found)
    lines = [statement(results), f"Mean ± standard deviation over {n} test images; the best in bold."]
    if {row.preset for row in found} != {"paper"}:
        lines.append("Trained by a preset that is not the paper's.")
    if any(row.weights == "random" for row in found):
        lines.append(
            "Where initial weights are random, a network was trained from scratch that the paper may have fine-tuned: "
            "nothing about such a method follows from its row."
        )
    text = " ".join(map(_escaped, lines))
    title = f"# Tables and figures after Neubauer et al. 2024, for {_escaped(found[0].dataset)}"
    return f"{title}\n\n{text}\n\nIn italics: {ON_OTHER_DATA} ({PAPER}.)"


def _links(results: Results, folder: Path) -> dict[str, str]:
    """Return the path of each record, from the folder of the page, by the record's key."""
    return {key: os.path.relpath(found / RECORD_FILE, folder) for key, found in results.folders.items()}


def _table_part(table: Table, links: Mapping[str, str]) -> str:
    records = "; ".join(f"{_escaped(name)}: {_linked(keys, links)}" for name, keys in table.records.items())
    notes = "\n".join(f"- {_escaped(note)}" for note in table.notes)
    return f"## {table.title}\n\n{to_markdown(table)}\n{notes}\n- Records: {records or 'none'}"


def _linked(keys: Sequence[str], links: Mapping[str, str]) -> str:
    return ", ".join(f"[{key[:12]}](<{Path(links[key]).as_posix()}>)" for key in keys)


def _scatter_part(points: Sequence[Point], titles: Mapping[str, str]) -> str:
    if not points:
        return "## Figure 4\n\nNot drawn: no image was scored."
    headers = (
        "method",
        "clDice (%)",
        REPORTED_HERE,
        "correlation of PQ",
        "points",
        "correlation of clDice",
        "points",
    )
    told = [*by_method(points).items(), ("all", list(points))]
    lines = [[_escaped(titles.get(name, name)), *_correlation_cells(name, found)] for name, found in told]
    text = (
        "![Figure 4](figure4.png)\n\nRelative error of the ACS of each test image (linear up to 10 %, logarithmic "
        "above) against its PQ and its clDice. Spearman's rank correlation with the error is below 0 where a higher "
        "score goes with a smaller error. clDice is undefined, and left out, where neither truth nor prediction has a "
        "boundary between crystals. The paper does not say whose predictions its figure shows; this one shows those of "
        "all methods of Table II. Points: [figure4.csv](figure4.csv)."
    )
    table = tabulate(lines, headers, tablefmt="pipe", disable_numparse=True)
    return f"## Figure 4: PQ, clDice and the error of the crystal size\n\n{text}\n\n{table}"


def _correlation_cells(name: str, points: Sequence[Point]) -> list[str]:
    told = correlation(points)
    reported = f"*{CLDICE_OF_BOUNDARY.mean:.2f} ± {CLDICE_OF_BOUNDARY.std:.0f}*" if name == "boundary" else "-"
    return [
        _number(100 * told.cldice, 1)
        + (f" ± {100 * told.cldice_std:.0f}" if told.cldice_std == told.cldice_std else ""),
        reported,
        _number(told.rho_pq, 2),
        str(told.n),
        _number(told.rho_cldice, 2),
        str(told.n_cldice),
    ]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value == value else board_cells.NOTHING


def _case_parts(results: Results, titles: Mapping[str, str], folder: Path) -> Iterator[str]:
    cases = pick_cases(results)
    for number, case in enumerate(cases, start=5):
        name = f"figure{number}"
        sample = results.samples[case.image]
        found = draw_case(case, sample, titles, folder / name, zoomed=number == 6)
        write_atomic(folder / f"{name}.csv", _case_to_csv(case, found).encode())
        yield _case_part(name, case, found, titles)
    for number in range(5 + len(cases), 7):
        yield f"## Figure {number}\n\nNot drawn: too few images of at least two crystals were segmented by all methods."


def _case_part(name: str, case: Case, found: Mapping[str, Marked], titles: Mapping[str, str]) -> str:
    zoomed = " Below each picture the square that holds most of the outlines of wrong crystals, over all methods." * (
        name == "figure6"
    )
    text = (
        f"![{name}]({name}.png)\n\nPicked: {_escaped(case.rule)}. Crystals that match the truth (IoU over 0.5) are "
        "blue; others are merged (they hold several of the truth), split (parts of one), or spurious. Crystals of the "
        f"truth that are missed, and neither merged nor split, are outlined.{zoomed}"
    )
    lines = [
        [_escaped(titles[method]), f"{100 * predicted.scores.pq:.1f}", *(found[method].counts[kind] for kind in _WRONG)]
        for method, predicted in case.predicted.items()
    ]
    table = tabulate(lines, ["method", "PQ (%)", *_WRONG], tablefmt="pipe", disable_numparse=True)
    return f"## Figure {name[-1]}: picked case\n\n{text}\n\n{table}"


def _case_to_csv(case: Case, found: Mapping[str, Marked]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "image", "pq", *_WRONG, "record"])
    for method, predicted in case.predicted.items():
        counts = (found[method].counts[kind] for kind in _WRONG)
        writer.writerow([method, case.image, predicted.scores.pq, *counts, predicted.key])
    return text.getvalue()


def _remarks(results: Results) -> str:
    together = [*results.methods.values(), *results.fusions.values()]
    records = {record.key: record for result in together for record in result.records.values()}
    remarks = board_cells.remarks(rows(records.values()))
    return "## Remarks\n\n" + "\n".join(f"- {_escaped(line)}" for line in remarks) if remarks else ""


def _sources(results: Results, found: Iterable[Table], folder: Path) -> dict[str, Any]:
    links = _links(results, folder)
    return {
        "numbers": [number for table in found for number in sources(table)],
        "records": {key: Path(links[key]).as_posix() for key in sorted(links)},
    }
