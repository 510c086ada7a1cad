"""Every code block of docs/, run in the order in which a reader meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
_FILE = r"(?:<!-- file: (?P<file>\S+) -->\n)?"
_BLOCK = re.compile(rf"{_FILE}^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str | None, str, str]]:
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield block["file"], block["kind"], block["text"]


def shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    for file, kind, text in blocks(page):
        if file:
            (tmp_path / file).write_text(text)
        if kind == "bash":
            # What needs machines that a test has not is at least a script.
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif kind == "console":
            for command in text.splitlines():
                if not command.startswith("pip "):
                    shell(command, tmp_path)
        elif kind == "toml":
            assert tomllib.loads(text)
    titles = {json.loads(record.read_text())["info"]["title"] for record in tmp_path.glob("runs/*/*/*/record.json")}
    if page.stem == "add-a-method":
        assert titles == {"Bright pieces", "Voronoi", "Midway", "Alone"}
        assert all(title in shell("crystalbench leaderboard", tmp_path) for title in titles)


def test_the_first_method_has_twenty_lines() -> None:
    (page,) = [page for page in DOCS if page.stem == "add-a-method"]
    first = next(text for file, _, text in blocks(page) if file)
    assert len([line for line in first.splitlines() if line.strip()]) <= 20


def test_the_entry_point_group_is_the_one_that_is_looked_up() -> None:
    from crystalbench.registry import PACKAGE

    (page,) = [page for page in DOCS if page.stem == "add-a-method"]
    (declared,) = [tomllib.loads(text) for _, kind, text in blocks(page) if kind == "toml"]
    assert PACKAGE in declared["project"]["entry-points"]
