"""Every code block of docs/, run in the order in which a reader meets it; the site and its pictures."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image, ImageChops, ImageStat

from crystalbench.cli import main

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
_MARK = r"(?:<!-- (?:file: (?P<file>\S+)|(?P<slow>slow)) -->\n)?"
_BLOCK = re.compile(rf"{_MARK}^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of a page: a file to write, commands, Python, or what the Python before it prints.

    ``slow`` are commands of minutes, which are planned alone (``--dry-run``) unless slow tests are asked for.
    """

    file: str | None
    slow: bool
    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(block["file"], bool(block["slow"]), block["kind"], block["text"])


def shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def run(command: str, folder: Path) -> None:
    """Run a command, ours within this process, which has imported it; what would install something is only shown."""
    program, *arguments = shlex.split(command, comments=True)
    # Ray would stay in this process, and names with an asterisk are the shell's to find.
    if program == "crystalbench" and "ray" not in arguments and "*" not in command:
        assert main(arguments) == 0, command
    elif program != "pip":
        shell(command, folder)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed, names = io.StringIO(), {}
    for file, slow, kind, text in blocks(page):
        if kind == "bash":
            # What needs machines that a test has not is at least a script.
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        elif kind == "console":
            for command in text.splitlines():
                run(f"{command} --dry-run" if slow else command, tmp_path)
        elif kind == "python":
            with contextlib.redirect_stdout(printed := io.StringIO()):
                exec(compile(text, page.name, "exec"), names)
        elif kind == "text":
            assert printed.getvalue() == text
        elif kind == "toml":
            assert tomllib.loads(text)
        else:
            assert kind == "bash", f"a block of {kind} that no test runs"
    titles = {json.loads(record.read_text())["info"]["title"] for record in tmp_path.glob("runs/*/*/*/record.json")}
    if page.stem == "add-a-method":
        assert titles == {"Bright pieces", "Voronoi", "Midway", "Alone"}
        assert all(title in shell("crystalbench leaderboard", tmp_path) for title in titles)


@pytest.mark.slow
def test_commands_of_minutes_run(tmp_path: Path) -> None:
    slow = [block for page in DOCS for block in blocks(page) if block.slow]
    assert slow
    for command in (line for block in slow for line in block.text.splitlines()):
        print(shell(command, tmp_path))


def test_the_first_method_has_twenty_lines() -> None:
    (page,) = [page for page in DOCS if page.stem == "add-a-method"]
    first = next(block.text for block in blocks(page) if block.file)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20


def test_the_entry_point_group_is_the_one_that_is_looked_up() -> None:
    from crystalbench.registry import PACKAGE

    (page,) = [page for page in DOCS if page.stem == "add-a-method"]
    (declared,) = [tomllib.loads(block.text) for block in blocks(page) if block.kind == "toml"]
    assert PACKAGE in declared["project"]["entry-points"]


class _Loaded(HTMLParser):
    """Collects what a browser loads for a page by itself, and the page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value for name, value in attrs if value}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        elif tag != "a":
            self.loaded += [told[name] for name in ("src", "href", "data", "srcset", "poster") if name in told]


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built_by_us = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix}
    done = subprocess.run(
        [ROOT / "scripts" / "docs", tmp_path], env=os.environ | built_by_us, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for page in DOCS:
        site = _Loaded()
        site.feed((tmp_path / f"{page.stem}.html").read_text(encoding="utf-8"))
        loaded = [address.split("?")[0] for address in site.loaded if not address.startswith("#")]
        assert loaded
        assert [address for address in loaded if not (tmp_path / address).is_file()] == []
        inner = [link.split("#")[0] for link in site.links if not link.startswith(("http", "#"))]
        assert [link for link in inner if not (tmp_path / link).exists()] == []
    styles = "".join(sheet.read_text(encoding="utf-8") for sheet in tmp_path.rglob("*.css"))
    assert styles
    assert not re.search(r"@import|url\([\"']?(?:https?:)?//", styles)
    assert list(tmp_path.rglob("board.ipynb"))


def test_the_pictures_are_those_of_the_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "pictures", tmp_path], check=True)
    committed = sorted((ROOT / "docs" / "images").iterdir())
    assert [picture.name for picture in committed] == sorted(picture.name for picture in tmp_path.iterdir())
    for picture in committed:
        with Image.open(picture) as shown, Image.open(tmp_path / picture.name) as drawn:
            assert shown.size == drawn.size
            # Letters differ a little with the version of matplotlib.
            difference = ImageChops.difference(shown.convert("L"), drawn.convert("L"))
            assert ImageStat.Stat(difference).mean[0] < 2
        assert picture.stat().st_size < 150_000
