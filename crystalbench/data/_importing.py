"""What all importers share: samples of another maker in, a data-set folder out, whole or not at all."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from crystalbench._exceptions import DataError, SplitError
from crystalbench._files import write_atomic
from crystalbench.data._dataset import Sample, check_shape, open_dataset, read_settings, safe_name
from crystalbench.data._images import decode_image, write_labels
from crystalbench.data._splits import read_split, resolve_split, split_path, stratified_split, write_split

Convert = Callable[[Sample], tuple[NDArray[np.int32], list[str]]]
"""From a sample of the source to its label map, and what a user should know about that."""


@dataclass(frozen=True)
class ImportReport:
    """What an import made: counts, and what a user should know about the label maps."""

    n_images: int
    n_crystals: int
    notes: tuple[str, ...]


def import_samples(
    root: Path, samples: Sequence[Sample], dst: Path, convert: Convert, line_px: Callable[[Sample], int] | None = None
) -> ImportReport:
    """Make the data-set folder ``dst`` of ``samples``.

    Parameters
    ----------
    root
        The folder of the source; its ``dataset.yaml`` and ``splits/`` are taken over.
    samples
        Of the source; ``label_path`` is whatever ``convert`` reads.
    dst
        The folder to make; it may exist if it is empty.
    convert
        From a sample to its labels.
    line_px
        The width of the unlabelled lines of a sample, where the source shows it.

    Raises
    ------
    DataError
        Where ``dst`` holds files, or any sample cannot be used; all of them are named, and nothing is left.
    """
    _refuse_full(dst)
    with _built_beside(dst) as folder:
        report = _convert_all(samples, folder, convert)
        widths = [line_px(sample) for sample in samples] if line_px else []
        _write_manifest(folder, samples)
        notes = [*_write_settings(root, folder, dst, widths), *_write_fixed_split(root, samples, folder)]
    return ImportReport(report.n_images, report.n_crystals, (*report.notes, *notes))


def _refuse_full(dst: Path) -> None:
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise DataError(f"{dst} already holds files: name a folder that is empty or not there yet")


@contextmanager
def _built_beside(dst: Path) -> Iterator[Path]:
    dst = dst.absolute()
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dst.parent, prefix=f".{dst.name}.") as beside:
        folder = Path(beside) / dst.name
        folder.mkdir()
        yield folder
        folder.replace(dst)


def _convert_all(samples: Sequence[Sample], folder: Path, convert: Convert) -> ImportReport:
    problems: list[str] = []
    notes: list[str] = []
    n_crystals = 0
    for sample in samples:
        try:
            labels, found = _convert_one(sample, convert)
        except DataError as error:
            problems.append(str(error))
            continue
        _store(sample, labels, folder)
        n_crystals += np.count_nonzero(np.unique(labels))
        notes += found
    if problems:
        raise DataError(f"nothing was imported: {'; '.join(problems)}")
    return ImportReport(len(samples), n_crystals, tuple(notes))


def _convert_one(sample: Sample, convert: Convert) -> tuple[NDArray[np.int32], list[str]]:
    _, changes = decode_image(sample.image_path)
    labels, notes = convert(sample)
    check_shape(sample.label_path, labels.shape, sample.image_path, DataError)
    notes += [f"{sample.image_path.name}: {', '.join(changes)}"] if changes else []
    return labels, notes


def _store(sample: Sample, labels: NDArray[np.int32], folder: Path) -> None:
    write_labels(folder / "labels", sample.name, labels)
    _copy(sample.image_path, folder / "images")
    if sample.grain_path is not None:
        _copy(sample.grain_path, folder / "grains")


def _copy(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / path.name)


def _write_manifest(folder: Path, samples: Sequence[Sample]) -> None:
    labels = {path.stem: path.name for path in (folder / "labels").iterdir()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "group", "um_per_px"))
    writer.writerows((s.image_path.name, labels[s.name], s.group, s.um_per_px) for s in samples)
    write_atomic(folder / "manifest.csv", text.getvalue().encode())


def _write_settings(root: Path, folder: Path, dst: Path, widths: Sequence[int]) -> list[str]:
    settings = read_settings(root).model_dump(exclude_none=True, exclude_unset=True)
    kept = {key: value for key, value in settings.items() if key not in {"made_by", "version", "seed", "images"}}
    kept = {"name": safe_name(dst.absolute().name), **kept}
    if widths:
        kept["line_px"] = round(float(np.median(widths)))
    write_atomic(folder / "dataset.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).encode())
    if "line_px" in kept:
        return [f"line_px is {kept['line_px']}"]
    return ["line_px is taken as 0: set it in dataset.yaml where an unlabelled line runs between crystals"]


def _write_fixed_split(src: Path, samples: Sequence[Sample], folder: Path) -> list[str]:
    """Write the split of the source, whose ``samples`` are now in ``folder``, or a new one; say which."""
    path, notes = split_path(src, "fixed"), []
    if path.exists():
        try:
            _take_split_over(src, samples, folder)
            return [f"{path} is taken over"]
        except SplitError as error:
            notes = [f"the split of the source is not taken over: {error}"]
    dataset = open_dataset(folder)
    groups = {sample.name: sample.group for sample in dataset.samples}
    if len(set(groups.values())) < 3:
        return [*notes, "no split was made, as there are fewer than three groups"]
    write_split(folder, "fixed", stratified_split(dataset.classes(), groups), seed=0)
    return [*notes, "a new split was made"] if notes else []


def _take_split_over(src: Path, samples: Sequence[Sample], folder: Path) -> None:
    split = resolve_split(src, "fixed", samples)
    left_out = sorted({sample.name for sample in samples} - {sample.name for sample in split.samples})
    if left_out:
        raise SplitError(f"{split_path(src, 'fixed')} leaves out {', '.join(left_out)}")
    file = read_split(src, "fixed")
    assignment = {image: member.subset for image, member in file.images.items()}
    write_split(folder, "fixed", assignment, version=file.version, seed=file.seed)
