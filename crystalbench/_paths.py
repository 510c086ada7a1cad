"""Where adapters, configs and the published board lie: inside a wheel, beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from crystalbench._exceptions import ConfigurationError

# Resolved: an environment of its own may hold a link to this package.
_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return the folder ``name`` (``adapters``, ``configs``, ``leaderboard/records``).

    Raises
    ------
    ConfigurationError
        Where the installation lacks it.
    """
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigurationError(f"this installation of crystalbench lacks {name}/; install it again")
