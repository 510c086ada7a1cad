"""The page of a leaderboard. What it alone needs, the extra ``html``, is imported when one is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from crystalbench._exceptions import ConfigurationError
from crystalbench.leaderboard._load import Stored


def write_page(stored: Sequence[Stored], out: Path, report: Callable[[int, int], None] | None = None) -> None:
    """Write the page of some records; see :func:`crystalbench.leaderboard._html._page.write_page`.

    Raises
    ------
    ConfigurationError
        Where the extra ``html`` is not installed, or ``out`` is a folder.
    """
    try:
        from crystalbench.leaderboard._html import _page
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--format html needs {error.name}: pip install 'crystalbench[html]'") from error
    _page.write_page(stored, out, report)
