"""What is installed and what each method lacks, found out by really importing it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from crystalbench import _devices
from crystalbench._console import screen
from crystalbench._exceptions import ConfigurationError
from crystalbench.registry import Method, find_methods

_TIMEOUT_S = 300


@dataclass(frozen=True)
class Library:
    """A library that was imported in a process of its own; ``error`` is empty where that worked."""

    name: str
    version: str
    error: str


def examine(adapters: Sequence[str]) -> bool:
    """Print a line for each library and each method; return whether every method can run."""
    console = screen()
    methods = find_methods(adapters)
    with Console(stderr=True).status("importing every library, each in a process of its own"):
        libraries = _import_all({name for method in methods.values() for name in method.libraries})
    console.print(_library_table(libraries.values()))
    lacking = {name: _lacks(method, libraries) for name, method in methods.items()}
    console.print(_method_table(methods, lacking))
    console.print(f"cores: {_devices.cores()}   device: {_devices.resolve_device('auto')}")
    return not any(lacking.values())


def _import_all(names: Iterable[str]) -> dict[str, Library]:
    with ThreadPoolExecutor(_devices.cores()) as pool:
        return {library.name: library for library in pool.map(_import_one, sorted(names))}


def _import_one(name: str) -> Library:
    """A process of its own, since some libraries abort instead of raising when they cannot be imported."""
    code = (
        f"import {name}, importlib.metadata as m;"
        f"d = m.packages_distributions().get({name!r}, []);"
        "print(m.version(d[0]) if d else '-')"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Library(name, "", f"did not import within {_TIMEOUT_S} s")
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return Library(name, "", reason[-1])
    return Library(name, done.stdout.strip().splitlines()[-1], "")


def _lacks(method: Method, libraries: dict[str, Library]) -> str:
    missing = [name for name in method.libraries if libraries[name].error]
    if missing:
        # From the YAML alone: to ask the class would be to import what is missing.
        extra = method.written.info.get("extra")
        remedy = f"; install with: pip install 'crystalbench[{extra}]'" if extra else ""
        if method.script is not None:
            remedy = "; run --isolated installs it apart"
        return f"lacks {', '.join(missing)}{remedy}"
    try:
        info = method.segmenter_class.info
    except ConfigurationError as error:
        return str(error)
    if info.needs_gpu and _devices.resolve_device("auto") == "cpu":
        return "needs a GPU"
    return ""


def _library_table(libraries: Iterable[Library]) -> Table:
    table = Table("library", "version", Column("imports", overflow="fold"))
    for library in libraries:
        table.add_row(library.name, library.version, Text(library.error or "yes"))
    return table


def _method_table(methods: dict[str, Method], lacking: dict[str, str]) -> Table:
    table = Table(Column("method", no_wrap=True), Column("ready", overflow="fold"), "libraries")
    for name, method in methods.items():
        table.add_row(name, Text(lacking[name] or "yes"), ", ".join(method.libraries))
    return table
