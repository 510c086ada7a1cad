"""How soon a browser shows the page of a board of many large images."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _timing import Row, timed
from harness import MANY, made
from playwright.sync_api import sync_playwright

PEERS: tuple[str, ...] = ()

SIDE = 1600

METHODS = ("truth", "empty", "voronoi")

VIEWPORTS = {"desk": (1280, 900), "phone": (390, 844)}

VISITS = 5

FIRST_PAINT = """() => new Promise(done => new PerformanceObserver(seen => done(seen.getEntries()[0].startTime / 1e3))
    .observe({type: 'paint', buffered: true}))"""


def rows() -> Iterator[Row]:
    """Yield the seconds to the first paint at the size of a desk's and of a phone's window."""
    chromium = shutil.which("chromium")
    if chromium is None:
        yield _row("desk", None, "no Chromium: apt-get install chromium")
        return
    with tempfile.TemporaryDirectory() as folder:
        page, seconds = _page(Path(folder))
        files = [file for file in page.with_name(f"{page.stem}_files").rglob("*") if file.is_file()]
        size = f"{page.stat().st_size / 1e6:.1f} MB beside {len(files)} files, made in {seconds:.0f} s"
        for name, (width, height) in VIEWPORTS.items():
            paints = _first_paints(chromium, page, width, height)
            yield _row(name, statistics.median(paints), f"{min(paints):.2f} to {max(paints):.2f} s; {size}")


def _row(name: str, paint: float | None, remark: str) -> Row:
    work = f"page of {MANY} images of {SIDE}^2 and {len(METHODS)} methods, {name}: s to the first paint"
    return Row(work, "a new browser each time, median", paint, "under 2 s", remark)


def _page(folder: Path) -> tuple[Path, float]:
    """Return the page of a board whose test images are many and large, and the seconds that making it took."""
    dataset, runs, page = made(folder / "large", MANY, SIDE), folder / "runs", folder / "board.html"
    methods = [part for method in METHODS for part in ("--method", method)]
    _crystalbench("run", *methods, "--data", str(dataset.root), "--out", str(runs))
    seconds, _ = timed(
        lambda: _crystalbench("leaderboard", "--runs", str(runs), "--format", "html", "--out", str(page))
    )
    return page, seconds


def _crystalbench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "crystalbench", *arguments], check=True, capture_output=True)


def _first_paints(chromium: str, page: Path, width: int, height: int) -> list[float]:
    found = []
    with sync_playwright() as playwright:
        for _ in range(VISITS):
            with playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
                tab = browser.new_page(viewport={"width": width, "height": height})
                tab.goto(page.as_uri(), wait_until="commit")
                found.append(float(tab.evaluate(FIRST_PAINT)))
    return found
