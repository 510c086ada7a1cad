"""The page of a leaderboard, in a real browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import make_squares
from PIL import Image
from playwright.sync_api import Error, Page, Request, ViewportSize, expect, sync_playwright
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from test_leaderboard import CLOSE, EMPTY, EXACT, FAR, TRUTHS, control, crashed, image_records, record, save

from crystalbench.cli import main
from crystalbench.data import write_image, write_labels
from crystalbench.experiment import Record
from crystalbench.leaderboard import _html, load_records, rows
from crystalbench.leaderboard._html import _pictures
from crystalbench.leaderboard._html._entries import entries
from crystalbench.leaderboard._html._figures import pareto_front
from crystalbench.leaderboard._html._kinds import ErrorKind, error_kinds
from crystalbench.leaderboard._html._sources import label_files, training_curves
from crystalbench.leaderboard._html._table import groups
from crystalbench.leaderboard._load import Stored, load_stored
from crystalbench.leaderboard._significance import comparisons

BOARD = Path(__file__).parents[1] / "leaderboard"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)
Scheme = Literal["light", "dark"]

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

# Machines that test may be busy.
expect.set_options(timeout=30_000)

HOSTILE = "<script>document.title='run'</script>"
QUOTES = "\"><img src=x onerror=\"document.title='run'\"> 'q' & </script>"
NAMES = ["../../../m0", "m 1/<b>", HOSTILE, 'ß"\u202e', "%2e%2e"]


class Visitor:
    """Opens one page after the other, in one tab: a browser compiles plotly once then.

    At the end of a visit nothing has gone wrong, nothing was asked of the network, and only pictures were read.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.file = Path()
        self.requests: list[Request] = []
        self.problems: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(dialog.message))

    def __call__(self, file: Path, part: str = "", size: ViewportSize = DESK, scheme: Scheme = "light") -> Page:
        """Open a page at one of its parts."""
        self.leave()
        self.file = file.resolve()
        self.page.set_viewport_size(size)
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.page.goto(self.file.as_uri() + part)
        return self.page

    def files(self) -> list[Path]:
        """What was read besides the page."""
        paths = [Path(unquote(urlparse(one.url).path)) for one in self.requests if one.url.startswith("file:")]
        return [path for path in paths if path != self.file]

    def leave(self) -> None:
        """Close the page."""
        self.page.goto("about:blank")
        addresses, files, problems = [one.url for one in self.requests], self.files(), list(self.problems)
        self.requests.clear()
        self.problems.clear()
        assert [one for one in addresses if not one.startswith(("file:", "data:", "about:blank"))] == []
        assert [file for file in files if file.parent != self.file.with_name(f"{self.file.stem}_files")] == []
        assert problems == []


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    with sync_playwright() as playwright:
        # As root, which CI is, Chromium has no sandbox of its own.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        with playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as chromium:
            yield Visitor(chromium.new_context(offline=True).new_page())


@pytest.fixture
def visit(visitor: Visitor) -> Iterator[Visitor]:
    yield visitor
    visitor.leave()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the published board."""
    file = tmp_path_factory.mktemp("board") / "board.html"
    assert main(["leaderboard", "--runs", str(BOARD / "records"), "--format", "html", "--out", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a stranger's records, with all that rows can be, in a folder of a strange name."""
    root = tmp_path_factory.mktemp("strange") / "a b ü#%41"
    ours, theirs = _hostile(CLOSE, "theirs"), _hostile(FAR, "others", info={"title": QUOTES}, dataset={"name": HOSTILE})
    several = [record([*CLOSE[:4], EMPTY], method="seeds", seed=seed, preset="standard") for seed in (0, 1)]
    failing = record([*FAR[:3], None, FAR[4]], method="partial")
    others = [control("truth", EXACT), crashed(method="broken"), record(FAR, method="far")]
    save(root / "runs", ours, theirs, *several, failing, *others)
    for one in (*several, failing):
        folder = root / "runs" / "demo" / one.method / one.key[:12] / "labels"
        for number, labels in enumerate(CLOSE):
            write_labels(folder, f"m{number}", labels)
    # What a name that climbs out of its folder would find.
    write_labels(root / "runs" / "demo", "m0", TRUTHS[0])
    arguments = ["leaderboard", "--runs", str(root / "runs"), "--format", "html", "--out", str(root / "b ü#%41.html")]
    assert main(arguments) == 0
    assert {path.name for path in root.iterdir()} == {"runs", "b ü#%41.html"}
    return root / "b ü#%41.html"


def _hostile(predictions: list[Any], method: str, **changes: Any) -> Record:
    images = [{**image, "image": name} for image, name in zip(image_records(predictions), NAMES, strict=True)]
    plain = record(predictions, method=method).model_dump()
    changed = {
        "info": {**plain["info"], "title": HOSTILE, "paper": QUOTES, **changes.get("info", {})},
        "dataset": {**plain["dataset"], **changes.get("dataset", {})},
        "parameters": {"train": {}, "infer": {HOSTILE: QUOTES}, "decode": {}},
        "changes": {f"infer.{HOSTILE}": QUOTES},
        "preset": QUOTES,
        "trainings": {"../../..": {"key": "../..", "weights": HOSTILE, "seconds": 1.0, "steps": 1}},
        "warnings": [HOSTILE, "{{ 7 * 7 }}", "]]><!--"],
        "provenance": {"command": ["crystalbench", "--data", "/etc", HOSTILE, "%{x}<br>"], HOSTILE: [QUOTES]},
    }
    return record(predictions, method=method, images=images, **changed)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run on 51 test images."""
    root = tmp_path_factory.mktemp("many") / "größe <b> x"
    trained, tested = make_squares(root / "trained", 8), root / "my set"
    for number in range(51):
        labels = np.zeros((40 + number, 60), np.int32)
        labels[4:20, 4:30], labels[22:36, 4 : 30 + number % 20] = 1, 5
        image = np.where(labels > 0, 200, 20).astype(np.uint8)
        write_image(tested / "images" / f"n{number:02}.png", image[..., None].repeat(3, 2))
        write_labels(tested / "labels", f"n{number:02}", labels)
    command = [sys.executable, "-m", "crystalbench", "run", "--method", "truth"]
    data = ["--data", str(tested), "--train-data", str(trained), "--out", str(root / "runs")]
    subprocess.run([*command, *data], check=True, capture_output=True)
    assert main(["leaderboard", "--runs", str(root / "runs"), "--format", "html", "--out", str(root / "b.html")]) == 0
    return root / "b.html"


def json_of(runs: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(runs), "--format", "json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def column(page: Page, name: str, number: int = 0) -> list[str]:
    """The values by which a board is sorted, of the rows that are shown."""
    found: list[str] = page.locator(f"#b{number} .ranking .row:visible [data-column={name}]").evaluate_all(
        "cells => cells.map(cell => cell.dataset.value)"
    )
    return found


@needs_chromium
def test_the_numbers_on_the_page_are_those_of_json(
    board: Path, strange: Path, visit: Visitor, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, runs in ((board, BOARD / "records"), (strange, strange.parent / "runs")):
        page, told = visit(file), json_of(runs, capsys)
        assert page.evaluate("JSON.parse(document.querySelector('#rows').textContent)") == told
        for name in ("pq", "pq_low", "sq", "rq", "aji", "mae_acs", "mre_acs", "acs", "latency_s", "parameters"):
            cells = page.locator(f".ranking .row [data-column={name}]")
            values = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")
            assert [float(value) if value else None for value in values] == [row[name] for row in told]
        cells = page.locator(".ranking .row [data-column=pq]")
        for cell, row in zip(cells.evaluate_all("cells => cells.map(c => c.textContent)"), told, strict=True):
            numbers = [f"{100 * row[key]:.1f}" for key in ("pq", "pq_std") if row[key] is not None]
            assert cell == (" ± ".join(numbers) or "-")


def shown(page: Page, name: str, part: str = "#b0") -> list[str]:
    """What the rows that are shown hold in a column, as they are sorted by it."""
    cells = page.locator(f"{part} .row:visible [data-column={name}]")
    found: list[str] = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")
    return found


@needs_chromium
def test_a_click_on_a_header_sorts_and_what_is_not_known_comes_last(strange: Path, visit: Visitor) -> None:
    page = visit(strange, "#b1")
    header = page.locator("#b1 thead th", has=page.locator("[data-column=pq]"))
    for direction in ("ascending", "descending"):
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", direction)
        ranked = list(map(float, shown(page, "pq", "#b1 tbody:nth-of-type(1)")))
        assert len(ranked) > 2
        assert ranked == sorted(ranked, reverse=direction == "descending")
        assert [value == "" for value in shown(page, "pq", "#b1 tbody:nth-of-type(2)")] == [False, False, True]
    assert page.locator("#b1 th[aria-sort$=cending]").count() == 1
    page.locator("#b1 thead [data-column=method]").click()
    names = shown(page, "method", "#b1 tbody:nth-of-type(1)")
    assert names == sorted(names, key=str.lower)


@needs_chromium
def test_rows_are_filtered_by_words_and_by_status(strange: Path, visit: Visitor) -> None:
    page = visit(strange, "#b1")
    filtered = page.locator("#b1 .filter")
    filtered.fill("STANDARD seeds")
    assert shown(page, "method", "#b1") == ["Seeds"]
    expect(page.locator("#b1 .count")).to_have_text("1 of 6 methods shown")
    expect(page.locator("#b1 .part")).to_be_hidden()
    filtered.fill("")
    for kind, name in (("partial", "Partial"), ("failed", "Broken"), ("control", "Truth")):
        assert name in shown(page, "method", "#b1")
        page.locator(f"#b1 .kind[value={kind}]").uncheck()
        assert name not in shown(page, "method", "#b1")
    assert len(shown(page, "rank", "#b1")) == 3


@needs_chromium
def test_rows_without_a_rank_are_apart_and_say_why(strange: Path, visit: Visitor) -> None:
    page = visit(strange, "#b1")
    rows_apart = page.locator("#b1 tbody").nth(1).locator(".row")
    assert rows_apart.locator(".status").all_inner_texts() == ["partial, 1 failed", "failed: ValueError", "control"]
    assert rows_apart.locator("[data-column=rank]").all_inner_texts() == ["-"] * 3
    assert page.locator("#b1 tbody").nth(0).get_by_text("random weights").count() == 2


@needs_chromium
def test_a_row_has_a_page_with_settings_provenance_and_the_command(board: Path, visit: Visitor) -> None:
    page = visit(board)
    told = page.evaluate("JSON.parse(document.querySelector('#rows').textContent)")
    number = next(i for i, row in enumerate(told) if row["method"] == "sima")
    page.get_by_role("link", name=told[number]["title"]).first.click()
    view = page.locator(f"#b0-row-{number}")
    expect(view).to_be_visible()
    expect(page.locator("#b0")).to_be_hidden()
    expect(view.locator("h1")).to_be_focused()
    epochs = told[number]["settings"]["train"]["cp"]["epochs"]
    expect(view.get_by_role("row", name="train.cp.epochs")).to_contain_text(str(epochs))
    expect(view).to_contain_text(f"{told[number]['key'][0][:12]}.json")
    expect(view).to_contain_text("The training curves are not here")
    view.locator("summary").click()
    expect(view.get_by_role("row", name="libraries.torch")).to_be_visible()
    view.get_by_role("link", name="Back to the board").click()
    expect(page.locator("#b0")).to_be_visible()
    expect(page.get_by_role("link", name=told[number]["title"]).first).to_be_focused()


@needs_chromium
def test_an_image_shows_truth_and_the_outlines_of_every_method(board: Path, visit: Visitor) -> None:
    page = visit(board)
    records = load_records([BOARD / "records"])
    first = page.locator(".thumbnails a").first
    name = first.locator("b").text_content()
    first.click()
    expect(page.locator("#case-title")).to_have_text(f"Image {name}")
    expect(page.locator("#case-title")).to_be_focused()
    ranked = [one for one in records if not one.info.control]
    figures = page.locator("#case-grid figure:visible")
    expect(figures).to_have_count(len(ranked) + 1)
    page.locator("#case-controls").check()
    expect(figures).to_have_count(len(records) + 1)
    page.locator("#case-grid img").evaluate_all("images => images.forEach(image => image.loading = 'eager')")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#case-grid img')].every(i => i.complete && i.naturalWidth)"
    )
    sima = next(one for one in records if one.method == "sima")
    pq = load_pq(sima, name)
    expect(page.locator("#case-grid figure", has_text=sima.info.title)).to_contain_text(f"PQ {100 * pq:.1f} %")
    before = page.locator("#case-grid img.over").first
    expect(before).to_be_hidden()
    page.locator("#case-truth").check()
    expect(before).to_be_visible()
    page.locator("#case-outlines").uncheck()
    expect(page.locator("#case-grid img.outlines").first).to_be_hidden()
    expect(page.locator("#case-previous")).to_be_hidden()
    page.locator("#case-next").click()
    expect(page.locator("#case-title")).not_to_have_text(f"Image {name}")


def load_pq(one: Record, name: str) -> float:
    (row,) = rows([one])
    return row.images[name].pq


@needs_chromium
def test_images_come_worst_first_and_in_other_orders(board: Path, visit: Visitor) -> None:
    page = visit(board)
    sima = next(row for row in rows(load_records([BOARD / "records"])) if row.method == "sima")
    page.locator("#b0 .by").select_option(label=sima.title)
    for order, reverse in (("worst", False), ("best", True)):
        page.locator("#b0 .order").select_option(order)
        names = page.locator(".thumbnails b").all_text_contents()
        found = [sima.images[name].pq for name in names]
        assert found == sorted(found, reverse=reverse)
    page.locator("#b0 .order").select_option("name")
    assert page.locator(".thumbnails b").all_text_contents() == sorted(sima.images)


@needs_chromium
def test_figures_show_the_numbers_and_only_the_methods_chosen(board: Path, visit: Visitor) -> None:
    page = visit(board)
    for plot in page.locator("#b0 .plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".main-svg").first).to_be_visible()
    told = page.evaluate("JSON.parse(document.querySelector('#rows').textContent)")
    data = page.locator("#b0 [data-figure=latency]").evaluate("plot => plot.data.map(t => [t.legendgroup, t.x, t.y])")
    points = {int(group): (x[0], y[0]) for group, x, y in data if group}
    methods = {i: row for i, row in enumerate(told) if row["latency_s"] and not row["control"]}
    assert points == {i: (row["latency_s"], 100 * row["pq"]) for i, row in methods.items()}
    box = page.locator("#b0 .methods input").first
    expect(box).to_be_checked()
    box.uncheck()
    visible = "plot => plot.data.filter(t => t.legendgroup === '0').map(t => t.visible)"
    for figure in ("latency", "intervals", "classes", "error", "acs", "sizes"):
        assert page.locator(f"#b0 [data-figure={figure}]").evaluate(visible) == [False]
    box.check()
    assert page.locator("#b0 [data-figure=latency]").evaluate(visible) == [True]


@needs_chromium
def test_the_theme_is_the_systems_until_it_is_changed(board: Path, visit: Visitor) -> None:
    page = visit(board, scheme="dark")
    back = "getComputedStyle(document.documentElement).backgroundColor"
    plot = page.locator("#b0 .plot").first
    plot.scroll_into_view_if_needed()
    expect(plot.locator(".main-svg").first).to_be_visible()
    dark, ink = page.evaluate(back), plot.evaluate("plot => plot.layout.font.color")
    page.locator("#theme").click()
    assert page.evaluate(back) != dark
    assert plot.evaluate("plot => plot.layout.font.color") != ink
    page.locator("#theme").click()
    assert page.evaluate(back) == dark


@needs_chromium
def test_everything_can_be_reached_with_the_keyboard_alone(board: Path, visit: Visitor) -> None:
    page = visit(board)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    reach(page, "thead [data-column=aji]")
    page.keyboard.press("Space")
    header = page.locator("#b0 thead th", has=page.locator("[data-column=aji]"))
    expect(header).to_have_attribute("aria-sort", "ascending")
    reach(page, ".row a")
    page.keyboard.press("Enter")
    expect(page.locator(".row-page:visible h1")).to_be_focused()
    reach(page, ".crumbs a")
    page.keyboard.press("Enter")
    expect(page.locator("#b0 .row a").first).to_be_focused()
    reach(page, ".order")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#b0 .order")).to_have_value("best")
    reach(page, ".thumbnails a")
    page.keyboard.press("Enter")
    reach(page, "#case-truth")
    page.keyboard.press("Space")
    expect(page.locator("#case-truth")).to_be_checked()


def reach(page: Page, selector: str) -> None:
    """Press the tabulator until something is focused, and see that one sees it."""
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"{selector} cannot be reached")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(board: Path, strange: Path, visit: Visitor, scheme: Scheme) -> None:
    visits = [(board, DESK, ("#b0", "#b0-row-1", "#b0-case-0")), (strange, PHONE, ("#b1",))]
    options = {}
    if scheme == "dark":
        # What is dark has other colours, and is the same otherwise.
        visits, options = [(board, DESK, ("#b0", "#b0-case-0"))], {"runOnly": ["color-contrast"]}
    for file, size, parts in visits:
        page = visit(file, size=size, scheme=scheme)
        page.locator("#b0 .plot").first.scroll_into_view_if_needed()
        for part in parts:
            page.evaluate("part => { location.hash = part; }", part)
            found = Axe().run(page, options=options).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@needs_chromium
def test_nothing_is_wider_than_a_phone(board: Path, strange: Path, visit: Visitor) -> None:
    for file in (board, strange):
        page = visit(file, size=PHONE)
        for part in ("#b0", "#b0-row-0", "#b0-case-0"):
            page.evaluate("part => { location.hash = part; }", part)
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@needs_chromium
def test_several_boards_are_chosen_by_name(strange: Path, visit: Visitor) -> None:
    page = visit(strange)
    choice = page.locator("#board-choice")
    assert choice.locator("option").all_inner_texts() == [f"{name} (test of split fixed)" for name in (HOSTILE, "demo")]
    expect(page.locator("#b0")).to_be_visible()
    choice.select_option(index=1)
    expect(page.locator("#b1")).to_be_visible()
    expect(page.locator("#b0")).to_be_hidden()
    page.go_back()
    expect(page.locator("#b0")).to_be_visible()
    expect(choice).to_have_value("0")


@needs_chromium
def test_hostile_names_and_texts_are_shown_and_do_nothing(strange: Path, visit: Visitor) -> None:
    page = visit(strange)
    title = page.title()
    expect(page.locator("#b0-title")).to_have_text(f"{HOSTILE} (test of split fixed)")
    assert QUOTES in shown(page, "method")[0]
    for part in ("#b0-row-0", "#b1-row-0", "#b1-row-1", "#b1-row-2", "#b1"):
        page.evaluate("part => { location.hash = part; }", part)
        for plot in page.locator(".view:visible .plot").all():
            plot.scroll_into_view_if_needed()
            expect(plot.locator(".main-svg").first).to_be_visible()
    theirs = page.locator(".row-page", has=page.locator("h1", has_text=HOSTILE)).first
    assert "{{ 7 * 7 }}" in theirs.text_content()
    assert "crystalbench --data /etc '<script>" in theirs.text_content()
    expect(page.locator("#b1 .thumbnails b")).to_have_count(10)
    assert {*NAMES} <= {*page.locator("#b1 .thumbnails b").all_text_contents()}
    plot = page.locator("#b1 [data-figure=acs]")
    plot.scroll_into_view_if_needed()
    for trace in range(3):
        plot.evaluate("(plot, trace) => Plotly.Fx.hover(plot, [{ curveNumber: trace, pointNumber: 0 }])", trace)
        expect(plot.locator(".hovertext")).to_have_count(1)
    assert page.evaluate("document.scripts.length") == 4
    assert page.title() == title


@needs_chromium
def test_a_name_that_climbs_finds_no_label_map(strange: Path, visit: Visitor) -> None:
    page = visit(strange)
    cases = page.evaluate("JSON.parse(document.querySelector('#data').textContent)[1].cases")
    drawn = {case["name"]: [method["outlines"] is not None for method in case["methods"]] for case in cases}
    assert sum(drawn["m0"]) == 2
    assert not any(any(drawn[name]) for name in NAMES)


@needs_chromium
def test_the_policy_stops_scripts_and_requests_that_get_in(strange: Path, visit: Visitor) -> None:
    page = visit(strange)
    with pytest.raises(Error, match="Content Security Policy"):
        page.add_script_tag(content="document.title = 'run'")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src=x onerror=\"document.title='run'\">`)")
    assert page.evaluate("fetch('https://example.org').then(() => 'fetched', () => 'refused')") == "refused"
    assert page.title() != "run"
    assert [one.failure for one in visit.requests if one.url != "about:blank"] == [None, "csp"]
    assert all("Content Security Policy" in problem for problem in visit.problems)
    visit.requests.clear()
    visit.problems.clear()


@needs_chromium
def test_without_its_data_set_a_board_shows_outlines_alone(strange: Path, visit: Visitor) -> None:
    page = visit(strange, "#b1")
    expect(page.locator("#b1 .gallery .note")).to_contain_text("outlines are shown alone")
    page.locator("#b1 .thumbnails a", has_text="m1").first.click()
    expect(page.locator("#case-note")).to_be_visible()
    seeds = page.locator("#case-grid figure", has_text="Seeds")
    expect(seeds.locator("img.outlines")).to_be_visible()
    expect(page.locator("#case-grid figure", has_text="Far")).to_contain_text("no label map here")


@needs_chromium
def test_many_images_are_files_beside_the_page_and_read_when_seen(many: Path, visit: Visitor, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere # 100%"
    moved.mkdir()
    shutil.copy(many, moved)
    shutil.copytree(many.with_name("b_files"), moved / "b_files")
    page = visit(moved / "b.html", size=PHONE)
    assert page.locator(".thumbnails a").count() == 51
    assert len(visit.files()) < 40
    last = page.locator(".thumbnails a").last
    last.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('.thumbnails img')].at(-1).naturalHeight === 192")
    last.click()
    page.locator("#case-controls").check()
    page.wait_for_function("() => [...document.querySelectorAll('#case-grid img')].every(image => image.naturalWidth)")
    expect(page.locator("#case-grid figure", has_text="Truth (control)")).to_contain_text("2 matched")
    assert {file.parent for file in visit.files()} == {moved / "b_files"}


@needs_chromium
def test_a_trained_row_shows_its_losses(tmp_path: Path, visit: Visitor) -> None:
    runs = save(tmp_path / "runs", record())
    write_curve(runs / "train" / "cp" / ("c" * 12) / "tensorboard", [3.0, 2.0, 1.5])
    page_file = tmp_path / "page.html"
    assert main(["leaderboard", "--runs", str(runs), "--format", "html", "--out", str(page_file)]) == 0
    page = visit(page_file, "#b0-row-0")
    plot = page.locator("#b0-row-0 .plot")
    expect(plot.locator(".main-svg").first).to_be_visible()
    (curve,) = plot.evaluate("plot => plot.data.map(t => [t.name, t.x, t.y])")
    assert curve == ["cp: loss/train", [0, 1, 2], [3.0, 2.0, 1.5]]


def write_curve(folder: Path, losses: list[float]) -> None:
    writer = EventFileWriter(str(folder))
    for step, loss in enumerate(losses):
        values = [Summary.Value(tag=tag, simple_value=loss) for tag in ("loss/train", "lr")]
        writer.add_event(Event(step=step, wall_time=float(step), summary=Summary(value=values)))
    writer.close()


def test_a_component_that_climbs_has_no_curve(tmp_path: Path) -> None:
    (climbing,) = save_and_load(tmp_path / "runs", record(trainings=training("../../secret")))
    write_curve(tmp_path / "secret" / ("c" * 12) / "tensorboard", [1.0])
    assert training_curves(climbing) == {}
    write_curve(tmp_path / "runs" / "train" / "cp" / ("c" * 12) / "tensorboard", [1.0])
    (plain,) = save_and_load(tmp_path / "runs", record(trainings=training("cp")), "cp")
    assert training_curves(plain) == {"cp: loss/train": [(0, 1.0)]}


def training(component: str) -> dict[str, Any]:
    return {component: {"key": "c" * 64, "weights": "random", "seconds": 1.0, "steps": 10}}


def save_and_load(runs: Path, one: Record, component: str = "") -> list[Stored]:
    save(runs, one)
    return [stored for stored in load_stored([runs]) if component in stored.record.trainings or not component]


def test_the_label_maps_of_a_row_are_those_of_all_folds_and_of_the_first_seed(tmp_path: Path) -> None:
    row = [Stored(tmp_path / name / "record.json", record()) for name in ("fold1", "fold2", "seed2", "none")]
    for stored, names in zip(row, (["a"], ["b"], ["a", "b"], []), strict=True):
        for name in names:
            write_labels(stored.labels, name, TRUTHS[0])
    assert label_files(row) == {"a": row[0].labels / "a.png", "b": row[1].labels / "b.png"}


def test_methods_share_a_letter_where_no_test_tells_them_apart() -> None:
    images = [f"i{n}" for n in range(12)]
    levels = {"a": 0.90, "b": 0.90, "c": 0.60}
    rng = np.random.default_rng(0)
    made = [record(method=name, images=quality(images, level, rng)) for name, level in levels.items()]
    chosen = rows(made)
    found = entries(chosen, {one.key: Stored(Path(), one) for one in made})
    pairs = comparisons(chosen)
    letters = groups(found, pairs)
    for pair in pairs:
        a, b = ({*letters[entry.index].split()} for entry in found if entry.row.key in (pair.key_a, pair.key_b))
        assert bool(a & b) is not pair.told_apart
    assert len({pair.told_apart for pair in pairs}) == 2


def quality(names: list[str], level: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Images with one crystal each, whose IoU is about ``level``."""
    areas = [int(1000 * np.clip(level + rng.normal(0, 0.03), 0, 1)) for _ in names]
    return [
        {
            "image": name,
            "status": "ok",
            "group": name,
            "difficulty": 1,
            "scores": {
                "matches": [[area, 1000]] if area > 500 else [],
                "aji_intersection": area,
                "aji_union": 1000,
                "areas_truth": [1000],
                "areas_prediction": [area],
            },
        }
        for name, area in zip(names, areas, strict=True)
    ]


def test_the_pareto_front_holds_what_no_other_beats() -> None:
    costs = {"exact": 5.0, "close": 1.0, "far": 2.0}
    made = [record(maps, method=name) for name, maps in (("exact", EXACT), ("close", CLOSE), ("far", FAR))]
    found = entries(rows(made), {one.key: Stored(Path(), one) for one in made})
    front = pareto_front(found, lambda row: costs[row.method])
    assert [entry.row.method for entry in front] == ["close", "exact"]


def test_each_kind_of_error_is_named_where_it_is() -> None:
    truth, prediction = (
        np.repeat(np.array(labels, np.int32), 4)[:, None] * np.ones((1, 8), np.int32)
        for labels in ([1, 0, 7, 7, 3, 4, 9, 0], [5, 0, 1, 2, 8, 8, 0, 6])
    )
    kinds = error_kinds(truth, prediction)
    assert kinds.counts == {"matched": 1, "missed": 1, "spurious": 1, "split": 2, "merged": 1}
    assert kinds.prediction[::4, 0].tolist() == [1, 0, 4, 4, 5, 5, 0, 3]
    assert kinds.missed[::4, 0].tolist() == [0, 0, 0, 0, 0, 0, 2, 0]


def test_outlines_have_the_colour_of_their_error() -> None:
    truth, prediction = np.zeros((512, 512), np.int32), np.zeros((512, 512), np.int32)
    truth[20:200, 20:200], truth[20:200, 300:480] = 1, 2
    prediction[20:200, 20:200], prediction[300:480, 20:200] = 7, 9
    kinds = error_kinds(truth, prediction)
    drawn = np.asarray(Image.open(io.BytesIO(_pictures.error_outlines(truth, prediction, kinds))))
    assert colours(drawn[:256, :256]) == {ErrorKind.MATCHED}
    assert colours(drawn[:256, 256:]) == {ErrorKind.MISSED}
    assert colours(drawn[256:, :256]) == {ErrorKind.SPURIOUS}
    assert not drawn[256:, 256:].any()


def colours(drawn: np.ndarray[Any, Any]) -> set[ErrorKind]:
    opaque = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b, a in drawn.reshape(-1, 4).tolist() if a == 255}
    return {kind for kind, colour in _pictures.COLOURS.items() if colour in opaque}


@pytest.mark.parametrize("module", ["plotly.offline", "jinja2"])
def test_without_the_extra_the_error_names_it(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = save(tmp_path / "runs", record())
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith("crystalbench.leaderboard._html._")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(_html, "_page", raising=False)
    assert main(["leaderboard", "--runs", str(runs), "--format", "html", "--out", str(tmp_path / "a.html")]) == 2
    assert re.search(r"--format html needs \w+.*: pip install 'crystalbench\[html\]'", capsys.readouterr().err)
    assert not (tmp_path / "a.html").exists()


def test_a_page_has_a_name_of_its_own_and_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "runs", record())
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", "--format", "html"]) == 0
    assert capsys.readouterr().out == "leaderboard.html\n"
    assert "crystalbench reproduce runs/demo/sima/" in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert main(["leaderboard", "--format", "html", "--out", "runs"]) == 2
    assert "runs is a folder: name the page" in capsys.readouterr().err
    assert main(["leaderboard", "--format", "html", "--significance"]) == 2
