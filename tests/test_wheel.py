"""The wheel, installed into a clean environment and used from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_adapters_configs_and_the_published_board(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "crystalbench/adapters/sima.py" in names
    assert "crystalbench/configs/methods/sima.yaml" in names
    assert "crystalbench/configs/datasets/demo.yaml" in names
    assert "crystalbench/py.typed" in names
    assert any(name.startswith("crystalbench/leaderboard/records/demo/") for name in names)
    page = "crystalbench/leaderboard/_html"
    assert {f"{page}/page.css", f"{page}/page.js", f"{page}/templates/page.html.j2"} <= names
    assert not any(name.startswith(("tests/", "adapters/", "configs/")) for name in names)


def test_the_main_command_runs_from_the_wheel_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    python = _clean_environment(wheel, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    few = ["--set", "train.cp.epochs=1", "--set", "train.attention.epochs=1", "--limit", "2"]
    command = [str(python), "-m", "crystalbench", "run", "--method", "sima", *few]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "overlays of sima" in done.stdout
    (record,) = elsewhere.glob("runs/demo/sima/*/record.json")
    assert json.loads(record.read_text())["provenance"]["git"] is None
    assert len(list(record.parent.glob("labels/*"))) == 2


def _clean_environment(wheel: Path, folder: Path) -> Path:
    """Install the wheel with all extras, in the versions that are tested here: uv has them in its cache."""
    python = folder / "venv" / "bin" / "python"
    versions = folder / "versions.txt"
    frozen = subprocess.run(
        ["uv", "pip", "freeze", "--python", sys.executable, "--exclude-editable"],
        check=True,
        capture_output=True,
        text=True,
    )
    versions.write_text(frozen.stdout)
    subprocess.run(["uv", "venv", "--python", sys.executable, str(folder / "venv")], check=True, capture_output=True)
    install = ["uv", "pip", "install", "--python", str(python), "--constraint", str(versions), f"{wheel}[all]"]
    subprocess.run(install, check=True, capture_output=True)
    return python
