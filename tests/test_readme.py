"""The README's commands and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from crystalbench.cli import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^crystalbench (.+)$", README, re.MULTILINE)]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_of_the_readme_is_one_that_exists(arguments: list[str]) -> None:
    assert _parser().parse_args(arguments).verb


def test_what_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).is_file()] == []
