"""From what a user calls a data set to its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path
from pydantic import BaseModel

from crystalbench._exceptions import CrystalbenchError, DataError, UnknownNameError
from crystalbench._files import canonical_json, file_sha256, sha256, write_atomic
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


def check_files(root: Path, report: Report | None = None, split: str = "fixed") -> list[Problem]:
    """Read a whole data set before hours are spent on it; return what is odd but usable.

    Leaks between splits are among what is returned: they make a comparison unfair, not impossible. Of the splits
    only ``split`` counts, and one that leaves a subset empty is not refused here, as a set that is only tested
    may have it. A set that our own generator made is not read, and one whose files are those of the last time is not
    read again.

    Raises
    ------
    DataError
        Names everything that cannot be used.
    """
    if _is_made(root):
        return []
    problems = [problem for problem in _verified(root, report) if not _is_of_other_split(root, problem, split)]
    unusable = [problem for problem in problems if problem.kind == "error" and not problem.leak]
    if all(problem.empty for problem in unusable):
        return [problem for problem in problems if not problem.empty]
    listed = "\n".join(f"  {problem.file} {problem.message}" for problem in unusable)
    raise DataError(f"{root} cannot be used before this is mended:\n{listed}")


def _verified(root: Path, report: Report | None) -> list[Problem]:
    """Return what :func:`verify_dataset` finds; from the user's cache where neither files nor checks have changed."""
    place = str(root.resolve())
    file = user_cache_path("crystalbench") / "checks" / f"{sha256(place.encode())[:12]}.json"
    sources = {source.name: file_sha256(source) for source in Path(__file__).parent.glob("*.py")}
    key = sha256(canonical_json({"place": place, "as": str(root), "sources": sources, "files": _files(root)}))
    try:
        before = _Checked.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        before = None
    if before is not None and before.key == key:
        return before.problems
    problems = verify_dataset(root, report)
    with suppress(OSError):
        # Without a cache that can be written the next run reads all again, and that is all.
        write_atomic(file, _Checked(key=key, problems=problems).model_dump_json().encode())
    return problems


class _Checked(BaseModel):
    """What was found in a data set whose files and checks were those of ``key``."""

    key: str
    problems: list[Problem]


def _files(root: Path) -> dict[str, tuple[int, ...]]:
    """Return what changes with the content of each file that a data set may be made of."""
    parts = [root, *(root / name for name in ("images", "labels", "grains", "splits"))]
    files = [file for part in parts if part.is_dir() for file in part.iterdir()]
    stats = {str(file.relative_to(root)): file.stat() for file in files if file.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in stats.items()}


def _is_made(root: Path) -> bool:
    try:
        return read_settings(root).is_made
    except CrystalbenchError:
        return False


def _is_of_other_split(root: Path, problem: Problem, split: str) -> bool:
    return problem.file.parent == root / "splits" and problem.file != split_path(root, split)
