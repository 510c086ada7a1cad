"""From what a user calls a data set to its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from crystalbench._exceptions import CrystalbenchError, DataError, UnknownNameError
from crystalbench.data._dataset import Dataset, open_dataset, read_settings
from crystalbench.data._made import made_names, make_dataset
from crystalbench.data._splits import split_path
from crystalbench.data._verify import Problem, verify_dataset

Report = Callable[[int, int], None]

_logger = logging.getLogger("crystalbench")


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
        if (Path(name) / "images").is_dir():
            _logger.warning(
                "%s is the made data set, not your folder ./%s; to take that one write ./%s, as in --data ./%s",
                *[name] * 4,
            )
        return make_dataset(name, report=report)
    if Path(name).is_dir():
        return Path(name)
    raise UnknownNameError("data set or folder", name, made_names())


def check_files(root: Path, report: Report | None = None) -> list[Problem]:
    """Read a whole data set before hours are spent on it; return what is odd but usable.

    Leaks between splits are among what is returned: they make a comparison unfair, not impossible. Of the splits
    only ``fixed`` counts, and one that leaves a subset empty is not refused here, as a set that is only tested
    may have it. A set that our own generator made is not read.

    Raises
    ------
    DataError
        Names everything that cannot be used.
    """
    if _is_made(root):
        return []
    problems = [problem for problem in verify_dataset(root, report) if not _is_of_other_split(root, problem)]
    unusable = [problem for problem in problems if problem.kind == "error" and not problem.leak]
    if all(problem.empty for problem in unusable):
        return [problem for problem in problems if not problem.empty]
    listed = "\n".join(f"  {problem.file} {problem.message}" for problem in unusable)
    raise DataError(f"{root} cannot be used before this is mended:\n{listed}")


def _is_made(root: Path) -> bool:
    try:
        return read_settings(root).is_made
    except CrystalbenchError:
        return False


def _is_of_other_split(root: Path, problem: Problem) -> bool:
    return problem.file.parent == root / "splits" and problem.file != split_path(root, "fixed")
