"""The README's examples, run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from crystalbench.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_evaluate_example_prints_scores(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for block in _python_blocks() if "crystalbench.evaluate" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "PQ 0.778, AJI 0.778, ACS error 0.0 px\n"


def test_the_method_in_one_file_appears_on_the_board(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = re.findall(r"<!-- example: (\w+\.py) -->", README)
    (example,) = [block for block in _python_blocks() if "class Otsu" in block]
    adapter = tmp_path / name
    adapter.write_text(example)
    command = next(line for line in README.splitlines() if f"--adapter {name}" in line)
    arguments = command.replace(name, str(adapter)).split()[1:]
    assert main([*arguments, "--data", str(squares), "--out", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    main(["leaderboard", "--runs", str(tmp_path / "runs"), "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["title"] == "Otsu"
    assert row["pq"] > 0.9


def test_every_command_of_the_readme_is_one_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = set(re.findall(r"^crystalbench (\w+)", README, re.MULTILINE))
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = capsys.readouterr().out
    assert verbs
    assert all(verb in offered for verb in verbs)
