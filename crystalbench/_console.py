"""The console that tables are printed on."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PAGE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


def screen() -> Console:
    """Return a console as wide as the terminal; a pipe has no width, so it gets all columns."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if narrow else Console(width=PAGE_WIDTH)
