"""Environments of their own for adapters that say what they need; uv builds them and keeps them in the user's cache."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import metadata, requires, version
from pathlib import Path

import platformdirs
from filelock import FileLock

import crystalbench
from crystalbench._exceptions import ConfigurationError
from crystalbench._files import canonical_json, sha256
from crystalbench.config import Tree

_PACKAGE = Path(crystalbench.__file__).resolve().parent
_PYTHON = Path("bin/python")
_ENVIRONMENT = "environment"
_OWN, _CORE = "own.txt", "core.txt"


def environment_python(adapter: Path, script: Tree, say: Callable[[str], None]) -> Path:
    """Return the Python of the environment that an adapter's ``script`` block asks for; build it where there is none.

    It holds the libraries of the block, resolved as if they were alone, and what a worker of crystalbench needs beside
    them; where the two conflict the block's stay. crystalbench itself is that which runs now.

    Raises
    ------
    ConfigurationError
        Where uv is not there, or cannot resolve or install what the block asks for; with uv's message.
    """
    needs = {"script": script, "python": _python(script), "core": _core(), "crystalbench": _identity()}
    folder = platformdirs.user_cache_path("crystalbench") / "environments" / sha256(canonical_json(needs))[:12]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        # A link to a Python that has since been removed does not exist.
        if not (folder / _PYTHON).exists():
            shutil.rmtree(folder, ignore_errors=True)
            say(f"{adapter.name}: uv builds the environment of its `# /// script` block ...")
            _build(folder, adapter, script)
    return folder / _PYTHON


def _build(folder: Path, adapter: Path, script: Tree) -> None:
    """Build an environment beside ``folder`` and rename it."""
    # Not the folder that the user stands in: the settings of a project there are not meant for this.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new") as beside:
        place = Path(beside)
        (place / _CORE).write_text("\n".join(_core()))
        _uv(adapter, place, "venv", "--relocatable", "--python", _python(script), _ENVIRONMENT)
        python = str(place / _ENVIRONMENT / _PYTHON)
        export = ("--no-hashes", "--emit-index-url", "--output-file", _OWN)
        _uv(adapter, place, "export", "--script", str(adapter), "--python", python, *export)
        both = ("--requirements", _OWN, "--requirements", _CORE, "--overrides", _OWN)
        _uv(adapter, place, "pip", "install", "--python", python, *both)
        _put_in_crystalbench(place / _ENVIRONMENT)
        (place / _ENVIRONMENT).rename(folder)


def _put_in_crystalbench(environment: Path) -> None:
    """Make this crystalbench importable, and nothing else of where it lies."""
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "crystalbench").symlink_to(_PACKAGE)
    about = site / f"crystalbench-{version('crystalbench')}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: crystalbench\nVersion: {version('crystalbench')}\n")


def _identity() -> list[str]:
    return [version("crystalbench"), str(_PACKAGE)]


def _core() -> list[str]:
    """Return what crystalbench requires without its extras."""
    return [requirement for requirement in requires("crystalbench") or [] if "extra ==" not in requirement]


def _python(script: Tree) -> str:
    """Return the versions of Python that suit both the block and crystalbench."""
    asked = script.get("requires-python")
    return ",".join([*([asked] if asked else []), metadata("crystalbench")["Requires-Python"]])


def _uv(adapter: Path, folder: Path, *arguments: str) -> None:
    program = shutil.which("uv")
    if program is None:
        raise ConfigurationError(
            f"{adapter}: --isolated needs uv, which is not on the PATH: https://docs.astral.sh/uv/getting-started/installation"
        )
    done = subprocess.run([program, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ConfigurationError(
            f"{adapter}: uv cannot build the environment of its `# /// script` block:\n{done.stderr.strip()}"
        )
