"""A method in a package of its own, from a wheel, in an environment with the core dependencies alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_squares

from crystalbench._new import new_method

ROOT = Path(__file__).parents[1]
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "grain-tools"
version = "1.0"
dependencies = ["crystalbench"]

[project.entry-points."crystalbench.adapters"]
brightest = "grain_tools.brightest"

[tool.hatch.build.targets.wheel]
packages = ["grain_tools"]
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment where crystalbench and the package are installed."""
    folder = tmp_path_factory.mktemp("third-party")
    package = folder / "package"
    new_method("brightest", package / "grain_tools")
    (package / "grain_tools" / "__init__.py").touch()
    (package / "pyproject.toml").write_text(PROJECT)
    wheels = [build(source, folder / "dist" / source.name) for source in (ROOT, package)]
    return environment(folder, wheels)


def build(source: Path, target: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, source)
    (wheel,) = target.glob("*.whl")
    return wheel


def environment(folder: Path, wheels: list[Path]) -> Path:
    """Install the wheels and what they need, in the versions that are tested here: uv has them in its cache."""
    python, versions = folder / "venv" / "bin" / "python", folder / "versions.txt"
    versions.write_text(run("uv", "pip", "freeze", "--python", sys.executable, "--exclude-editable"))
    run("uv", "venv", "--python", sys.executable, folder / "venv")
    run("uv", "pip", "install", "--python", python, "--constraint", versions, *wheels)
    return python


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_beside_the_built_in_methods(python: Path, tmp_path: Path) -> None:
    listed = json.loads(run(python, "-m", "crystalbench", "methods", "--json", cwd=tmp_path))
    assert {"sima", "watershed", "brightest"} <= {method["name"] for method in listed}
    (own,) = [method for method in listed if method["name"] == "brightest"]
    assert (own["title"], own["licence"]) == ("Brightest", "Apache-2.0")


def test_it_passes_check_without_torch(python: Path, tmp_path: Path) -> None:
    printed = run(python, "-m", "crystalbench", "check", "brightest", cwd=tmp_path)
    assert "12 of 15 checks ran: 12 ok, 3 not applicable" in printed
    assert run(python, "-c", "import importlib.util as i; print(i.find_spec('torch'))").strip() == "None"


def test_it_runs(python: Path, tmp_path: Path) -> None:
    data = make_squares(tmp_path / "squares", 8)
    printed = run(python, "-m", "crystalbench", "run", "--method", "brightest", "--data", data, cwd=tmp_path)
    assert "Brightest" in printed
    (file,) = tmp_path.glob("runs/squares/brightest/*/record.json")
    record = json.loads(file.read_text())
    assert (record["status"], record["info"]["title"]) == ("ok", "Brightest")
    assert len(list(file.parent.glob("labels/*.png"))) == record["n_planned"] > 0


def test_new_writes_its_files_from_the_wheel(python: Path, tmp_path: Path) -> None:
    run(python, "-m", "crystalbench", "new", "mine", cwd=tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"mine.py", "mine.yaml", "test_mine.py"}
    assert "ok" in run(python, "-m", "crystalbench", "check", "mine", "--adapter", "mine.py", cwd=tmp_path)
