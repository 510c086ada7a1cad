"""Our speed beside the libraries that a user would pick instead: ``uv run python benchmarks/run.py [--json FILE]``.

Prints one row for each comparison, as ratios of one run on this machine. The libraries that the project itself does
not need are installed for the time of the run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _timing import Row
from tabulate import tabulate

MODULES = ("evaluation", "flow_targets", "flow_decoding", "inference", "harness", "page")
"""Each has ``rows()``, and ``PEERS``: the requirements of what it compares with beyond the project's own."""

INSTALLED = "CRYSTALBENCH_BENCHMARK_PEERS"


def main(arguments: Sequence[str]) -> int:
    """Measure, print and save; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="these parts alone")
    options = parser.parse_args(arguments)
    modules = [importlib.import_module(name) for name in options.only]
    peers = sorted({peer for module in modules for peer in module.PEERS})
    if peers and INSTALLED not in os.environ:
        return _with_peers(peers, arguments)
    rows = []
    for row in (row for module in modules for row in module.rows()):
        rows.append(row)
        print(f"{row.work} | {row.against}: {_figure(row)} (goal: {row.goal}) | {row.agreement}", flush=True)
        if options.json:
            options.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n", encoding="utf-8")
    print(f"\n{tabulate(list(_cells(rows)), headers=['work', 'against', 'ratio', 'goal'], tablefmt='github')}")
    return 0


def _with_peers(peers: Sequence[str], arguments: Sequence[str]) -> int:
    """Run again, with ``peers`` laid over the project's environment."""
    extra = [part for peer in peers for part in ("--with", peer)]
    command = ["uv", "run", *extra, "python", str(Path(__file__)), *arguments]
    return subprocess.run(command, env={**os.environ, INSTALLED: "1"}).returncode


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, str]]:
    for row in rows:
        yield row.work, row.against, _figure(row), row.goal


def _figure(row: Row) -> str:
    return "-" if row.ratio is None else f"{row.ratio:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
