from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexMacroNode, LatexNode, LatexSpecialsNode, LatexWalker
from test_leaderboard import CLOSE, EXACT, FAR, board_of_issue_2, control, crashed, record, save, timed

from crystalbench.cli import main
from crystalbench.experiment import Record
from crystalbench.leaderboard import rows, to_latex

HOSTILE = r"""[1] *a* \input{x} $x_1^2$ 100% & ~#{}} <|> "q" `b` a--b ''c''"""
SYMBOLS = {"textless": "<", "textgreater": ">", "textbar": "|", "textasciigrave": "`", "textasciicircum": "^"}
Table = list[list[list[LatexNode]]]

needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def tables(latex: str) -> list[Table]:
    """The cells of each row of each table, as a parser of LaTeX reads them."""
    nodes, _, _ = LatexWalker(latex, tolerant_parsing=False).get_latex_nodes()
    return [_cells(node.nodelist) for node in environments(nodes) if node.environmentname == "tabular"]


def environments(nodes: list[LatexNode]) -> Iterator[LatexEnvironmentNode]:
    for node in nodes:
        if isinstance(node, LatexEnvironmentNode):
            yield node
        yield from environments(getattr(node, "nodelist", None) or [])


def _cells(nodes: list[LatexNode]) -> Table:
    lines: Table = [[[]]]
    for node in nodes:
        if node.isNodeType(LatexMacroNode) and node.macroname == "\\":
            lines.append([[]])
        elif node.isNodeType(LatexSpecialsNode) and node.specials_chars == "&":
            lines[-1].append([])
        elif not (node.isNodeType(LatexMacroNode) and node.macroname.endswith("rule")):
            lines[-1][-1].append(node)
    return lines[:-1]


def text(nodes: list[LatexNode]) -> str:
    context = get_default_latex_context_db()
    macros = [MacroTextSpec(name, symbol) for name, symbol in SYMBOLS.items()]
    context.add_context_category("symbols", macros=[*macros, MacroTextSpec("char", "")], prepend=True)
    reader = LatexNodes2Text(latex_context=context, math_mode="text", strict_latex_spaces=True)
    return reader.nodelist_to_text(nodes).replace("34", '"').strip()


def is_bold(nodes: list[LatexNode]) -> bool:
    return any(node.isNodeType(LatexMacroNode) and node.macroname == "textbf" for node in nodes)


def column(table: Table, header: str) -> list[list[LatexNode]]:
    (place,) = [i for i, cell in enumerate(table[0]) if text(cell) == header]
    return [line[place] for line in table[1:]]


def test_the_figures_of_a_board() -> None:
    ranking, by_class = tables(to_latex(rows([record(EXACT), record(FAR, method="cellpose"), control("truth", EXACT)])))
    assert {len(line) for line in ranking} == {12}
    assert [text(cell) for cell in column(ranking, "rank")] == ["1-2", "1-2", "-"]
    assert [text(cell) for cell in column(ranking, "method")] == ["Sima", "Cellpose", "Truth"]
    assert text(column(ranking, "PQ %")[0]) == "100.0 ± 0.0"
    assert text(column(ranking, "95 % of mean PQ")[0]) == "[100.0, 100.0]"
    assert [text(cell) for cell in column(ranking, "status")] == ["ok", "ok", "control"]
    assert [len(line) for line in by_class] == [4] * 4


def test_what_all_rows_share_is_told_in_the_caption_alone() -> None:
    latex = to_latex(rows([record(EXACT), record(FAR, method="cellpose")]))
    headers = [text(cell) for cell in tables(latex)[0][0]]
    assert not {"device", "preset", "weights", "seeds", "status"} & set(headers)
    assert "preset quick; initial weights random; device cpu (a processor); seed 0." in latex
    other = tables(to_latex(rows([record(EXACT), record(FAR, preset="standard")])))[0]
    assert [text(cell) for cell in column(other, "preset")] == ["quick", "standard"]


def test_the_best_of_the_ranked_rows_is_bold() -> None:
    board = rows([record(CLOSE), record(FAR, method="cellpose"), control("truth", EXACT), crashed(method="broken")])
    ranking, by_class = tables(to_latex(board))
    for header in ("PQ %", "AJI %", "MAE ACS px", "MRE ACS %"):
        assert [is_bold(cell) for cell in column(ranking, header)] == [True, False, False, False], header
    for header in ("rank", "method", "params", "latency s (reference)"):
        assert not any(map(is_bold, column(ranking, header)))
    assert [is_bold(line[1]) for line in by_class[1:]] == [True, False, False, False]


def test_all_that_are_best_are_bold_and_a_row_alone_is_not() -> None:
    (tied, _), (alone, _) = (
        tables(to_latex(rows(records)))
        for records in ([record(CLOSE), record(CLOSE, method="b"), record(FAR, method="c")], [record(CLOSE)])
    )
    assert [is_bold(cell) for cell in column(tied, "PQ %")] == [True, True, False]
    assert not any(is_bold(cell) for line in alone for cell in line)


@pytest.mark.parametrize(("device", "bold"), [("a processor", [False, True]), ("a GPU", [False, False])])
def test_the_least_latency_is_bold_where_latencies_are_comparable(device: str, bold: list[bool]) -> None:
    board = rows([timed(0, 2.0), timed(0, 1.0, method="z", device_name=device)])
    assert [row.method for row in board] == ["sima", "z"]
    assert [is_bold(cell) for cell in column(tables(to_latex(board))[0], "latency s (reference)")] == bold


@pytest.fixture
def hostile() -> list[Record]:
    info = {"name": "sima", "title": HOSTILE, "licence": "MIT"}
    data = {"name": HOSTILE, "identity_sha256": "ab" * 32}
    failed = crashed(method="broken", info=info, dataset=data)
    return [record(CLOSE, info=info, dataset=data), record(FAR, method="b", info=info, dataset=data), failed]


def test_hostile_names_stay_in_their_cells_and_are_read_as_they_are(hostile: list[Record]) -> None:
    ranking, by_class = tables(to_latex(rows(hostile)))
    assert [text(cell) for cell in column(ranking, "method")] == [HOSTILE] * 3
    assert [text(cell) for cell in column(by_class, "method")] == [HOSTILE] * 3
    assert len({len(line) for line in ranking}) == len({len(line) for line in by_class}) == 1


def test_nothing_behind_the_end_of_a_line_is_read_as_its_option(hostile: list[Record]) -> None:
    lines = to_latex(rows(hostile)).splitlines()
    assert not any(line.startswith(("[", "*")) for line in lines)


@needs_pdflatex
def test_latex_typesets_it(hostile: list[Record], tmp_path: Path) -> None:
    typeset(to_latex(rows([*hostile, *board_of_issue_2()])), "booktabs,graphicx", tmp_path)


def typeset(body: str, packages: str, folder: Path) -> None:
    document = rf"\documentclass{{article}}\usepackage{{{packages}}}\begin{{document}}{body}\end{{document}}"
    (folder / "board.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_the_command_writes_latex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = save(tmp_path, record(CLOSE), record(FAR, method="cellpose"))
    assert main(["leaderboard", "--runs", str(runs), "--format", "latex"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("% needs \\usepackage{booktabs,graphicx}\n")
    assert len(tables(printed)) == 2
