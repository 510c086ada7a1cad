"""The scores of a folder of label images, whoever made them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from crystalbench import _devices
from crystalbench._exceptions import DataError, LabelError
from crystalbench.data._images import LABEL_SUFFIXES, files_by_stem, read_labels
from crystalbench.evaluation._extras import ImageExtras, evaluate_extras
from crystalbench.evaluation._scores import ImageScores
from crystalbench.evaluation._summary import Summary, summarize, summarize_extras

# Score of an image, its mean and its standard deviation in a summary, title.
_COLUMNS = (
    ("n_truth", None, None, "truth"),
    ("n_prediction", None, None, "pred"),
    ("tp", None, None, "TP"),
    ("fp", None, None, "FP"),
    ("fn", None, None, "FN"),
    ("pq", "pq", "pq_std", "PQ\n%"),
    ("sq", "sq", None, "SQ\n%"),
    ("rq", "rq", None, "RQ\n%"),
    ("aji", "aji", "aji_std", "AJI\n%"),
    ("acs_truth", "acs_truth", "acs_truth_std", "ACS\ntruth\npx"),
    ("acs_prediction", "acs", "acs_std", "ACS\npred\npx"),
    ("acs_error", "mae_acs", None, "ACS\nerror\npx"),
    ("acs_relative_error", "mre_acs", "mre_acs_std", "ACS\nerror\n%"),
)


@dataclass(frozen=True)
class FolderScores:
    """Scores by the images' stems, in their order, and what they come to."""

    images: Mapping[str, ImageScores]
    extras: Mapping[str, ImageExtras]
    summary: Summary

    def to_json(self) -> dict[str, Any]:
        """Return the scores of each image and the summary, both with the further scores, ready for JSON."""
        images = [
            {"image": name, **scores.to_json(), **self.extras[name].to_json()} for name, scores in self.images.items()
        ]
        further = summarize_extras(list(self.extras.values()))
        return {"images": images, "summary": {**self.summary.to_json(), **further}}


def score_folders(truth: Path, prediction: Path, report: Callable[[int, int], None] | None = None) -> FolderScores:
    """Score the label images of one folder against those of the same stems in another, on all cores side by side.

    Parameters
    ----------
    truth, prediction
        Folders of label images (PNG, TIFF, NPY); other files and sub-folders are passed over.
    report
        Called with how many images are done, and of how many.

    Raises
    ------
    DataError
        Names every image that is missing, surplus, there twice or unreadable, and every pair that cannot
        be compared.
    """
    problems: list[str] = []
    truths, predictions = (_by_stem(folder, problems) for folder in (truth, prediction))
    problems += [f"{truths[stem]} has no prediction in {prediction}" for stem in truths.keys() - predictions]
    problems += [f"{predictions[stem]} has no truth in {truth}" for stem in predictions.keys() - truths]
    stems = sorted(truths.keys() & predictions.keys())
    extras: dict[str, ImageExtras] = {}
    pairs = [(truths[stem], predictions[stem]) for stem in stems]
    for done, (stem, found) in enumerate(zip(stems, _side_by_side(pairs), strict=True), start=1):
        if isinstance(found, ImageExtras):
            extras[stem] = found
        else:
            problems += found
        if report:
            report(done, len(stems))
    if problems:
        raise DataError(_listing(problems))
    scores = {stem: found.scores for stem, found in extras.items()}
    return FolderScores(scores, extras, summarize(list(scores.values())))


def score_table(scores: FolderScores) -> Table:
    """Return a table for people: a row for each image, the means, and how many scores are undefined."""
    table = Table(box=box.SIMPLE, padding=0, caption=_remarks(scores), caption_justify="left")
    table.add_column("image", overflow="fold", min_width=8)
    for *_, title in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for name, image in scores.images.items():
        table.add_row(Text(name), *_cells(image, [score for score, *_ in _COLUMNS]))
    table.add_section()
    table.add_row("mean", *_cells(scores.summary, [mean for _, mean, *_ in _COLUMNS]), style="bold")
    table.add_row("std", *_cells(scores.summary, [std for _, _, std, _ in _COLUMNS]))
    return table


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one that holds label images")
    files = files_by_stem(folder, LABEL_SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no label images (PNG, TIFF, NPY); name the folder they are in")
    twice = (paths for paths in files.values() if len(paths) > 1)
    problems += [f"{paths[0]} and {paths[1].name} beside it have one stem; keep one of them" for paths in twice]
    return {stem: paths[0] for stem, paths in files.items()}


def _side_by_side(pairs: Sequence[tuple[Path, Path]]) -> Iterator[ImageExtras | list[str]]:
    """Score files on all cores, and yield what was found in their order."""
    # Threads will do: decoding and counting let go of the interpreter.
    with ThreadPoolExecutor(_devices.cores()) as pool:
        try:
            yield from pool.map(_score_files, pairs)
        finally:
            pool.shutdown(cancel_futures=True)


def _score_files(pair: tuple[Path, Path]) -> ImageExtras | list[str]:
    """Return the scores of a truth and its prediction, or what is wrong with them."""
    problems: list[str] = []
    g, p = (_read(path, problems) for path in pair)
    if g is None or p is None:
        return problems
    try:
        return evaluate_extras(g, p)
    except LabelError as error:
        truth, prediction = pair
        return [f"{prediction} cannot be compared with {truth}: {error}"]


def _read(path: Path, problems: list[str]) -> NDArray[Any] | None:
    try:
        return read_labels(path)
    except DataError as error:
        problems.append(str(error))
        return None


def _listing(problems: list[str]) -> str:
    what = "this problem" if len(problems) == 1 else f"these {len(problems)} problems"
    return "\n  ".join([f"the folders cannot be scored; mend {what} and score again:", *sorted(problems)])


def _cells(scores: ImageScores | Summary, names: Sequence[str | None]) -> list[str]:
    return ["" if name is None else _cell(name, getattr(scores, name)) for name in names]


def _cell(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "-"
    in_pixels = name.startswith(("acs", "mae")) and name != "acs_relative_error"
    return f"{value:.1f}" if in_pixels else f"{100 * value:.1f}"


def _remarks(scores: FolderScores) -> str:
    images, summary = scores.images.values(), scores.summary
    splits, merges = (sum(getattr(image, name) for image in scores.extras.values()) for name in ("splits", "merges"))
    empty = sum(image.undefined and image.n_prediction == 0 for image in images)
    return (
        f"{summary.n_images} images; pooled PQ {_cell('pq', summary.pq_pooled)} %. "
        f"Crystals of the truth that are split: {splits}; of the prediction that are merges: {merges}. "
        f"Undefined (-) and left out of means: ACS errors of {summary.n_undefined} "
        f"(no crystal in the truth), PQ, SQ, RQ and AJI of {empty} (none in the prediction either). "
        f"No prediction where the truth has crystals: {summary.n_no_prediction}."
    )
