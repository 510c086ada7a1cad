"""From what a user calls a data set to its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crystalbench._exceptions import DataError, UnknownNameError
from crystalbench.data._dataset import Dataset, open_dataset
from crystalbench.data._made import made_names, make_dataset
from crystalbench.data._verify import Problem, verify_dataset

Report = Callable[[int, int], None]


def find_dataset(name: str, report: Report | None = None) -> Dataset:
    """Open a data set by the name of a made one, which is made on first use, or by its folder.

    Parameters
    ----------
    name
        ``demo``, another name of ``configs/datasets/``, or a folder.
    report
        Called with how many images are made, and of how many.

    Raises
    ------
    UnknownNameError
        Where there is neither such a name nor such a folder; names the nearest.
    DataError
        Where the folder is no data set.
    """
    return open_dataset(find_folder(name, report))


def find_folder(name: str, report: Report | None = None) -> Path:
    """Return the folder of a data set; see :func:`find_dataset`."""
    if name in made_names():
        return make_dataset(name, report=report)
    if Path(name).is_dir():
        return Path(name)
    raise UnknownNameError("data set or folder", name, made_names())


def check_files(root: Path, report: Report | None = None) -> list[Problem]:
    """Read a whole data set before hours are spent on it; return what is odd but usable.

    Leaks between splits are among what is returned: they make a comparison unfair, not impossible.

    Raises
    ------
    DataError
        Names every file that cannot be used.
    """
    problems = verify_dataset(root, report)
    unusable = [problem for problem in problems if problem.kind == "error" and not problem.leak]
    if unusable:
        listed = "\n".join(f"  {problem.file} {problem.message}" for problem in unusable)
        raise DataError(f"{root} has {len(unusable)} files that cannot be used:\n{listed}")
    return problems
