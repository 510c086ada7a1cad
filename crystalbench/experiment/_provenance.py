"""Where a result came from."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from crystalbench import _devices
from crystalbench._files import sha256
from crystalbench.config import Tree
from crystalbench.experiment._jobs import PLACE_FILE
from crystalbench.registry import Method


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(method: Method, device: str, start: str, where: Tree | None = None) -> Tree:
    """Return versions, source state and machine of a result that began at ``start`` and ends now.

    ``where`` is the machine that it was made on, as :func:`place` says it there; None: this one.
    """
    return {
        "start": start,
        "end": now(),
        "crystalbench": version("crystalbench"),
        "python": platform.python_version(),
        "libraries": method.library_versions,
        "git": _git_state(),
        **(where or place(device)),
    }


def place(device: str) -> Tree:
    """Return what records say of this machine."""
    return {
        "platform": platform.platform(),
        "cores": _devices.cores(),
        "device_name": _devices.device_name(device),
        "driver": _driver(device),
    }


def read_place(folder: Path) -> Tree | None:
    """Read which machine the job in ``folder`` ran on; None where no worker has said so."""
    try:
        return dict(json.loads((folder / PLACE_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


@cache
def machine(device: str) -> Tree:
    """Return what tells this machine from others; its name only as a hash, as records are published."""
    return {
        "host": sha256(platform.node().encode())[:12],
        "processor": _devices.device_name("cpu"),
        "cores": _devices.cores(),
        "device_name": _devices.device_name(device),
        "driver": _driver(device),
    }


def command_line() -> list[str]:
    """Return the command that was typed, without the path of the program."""
    return ["crystalbench", *sys.argv[1:]]


def _driver(device: str) -> str | None:
    if device == "cpu":
        return None
    return _output(["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"])


def _git_state() -> Tree | None:
    """Return commit and dirty flag of the checkout that this package runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit, "dirty": bool(changes)}


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
