"""Data sets of other makers, turned into data-set folders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, validate_call
from scipy import ndimage
from skimage.measure import label as connected_components
from skimage.morphology import skeletonize

from crystalbench._exceptions import ConfigurationError, DataError, UnknownNameError
from crystalbench.data._cellpose import import_cellpose
from crystalbench.data._classes import as_int32, compact
from crystalbench.data._coco import import_coco
from crystalbench.data._dataset import Layout, Sample, find_samples
from crystalbench.data._images import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_colours, read_image, read_labels
from crystalbench.data._importing import Convert, ImportReport, import_samples

Source = Path | tuple[Path, Path]
"""A folder with ``images/`` and a folder of label images beside it, or these two folders themselves."""

_LINE_SHARE_LIMIT = 0.5
_BLEND_AREA = 4


def import_labels(src: Source, dst: Path) -> ImportReport:
    """Import label maps: ``labels/`` or ``masks/`` of integers, 0 for background.

    Labels keep their numbers; those over 32 bit are renumbered in their order.

    Parameters
    ----------
    src
        The folder to read.
    dst
        The data-set folder to make; it may exist if it is empty.

    Raises
    ------
    DataError
        Where ``dst`` holds files, or any file of ``src`` cannot be used; all of them are named.
    """

    def convert(sample: Sample) -> tuple[NDArray[np.int32], list[str]]:
        return as_int32(read_labels(sample.label_path)), []

    return _import(_layout(src, ("labels", "masks"), LABEL_SUFFIXES), dst, convert)


def import_boundaries(
    src: Source,
    dst: Path,
    *,
    boundary: Literal["dark", "light"] = "dark",
    threshold: float | None = None,
    min_area: int = 0,
) -> ImportReport:
    """Import drawn boundaries: ``boundaries/`` or ``masks/`` of lines on another ground.

    Crystals are the 4-connected components of what is not drawn on. Nothing is closed: crystals on both sides
    of a gap in a line become one. ``line_px`` is the median width of the lines.

    Parameters
    ----------
    src, dst
        As in :func:`import_labels`.
    boundary
        Whether the lines are darker or lighter than the ground.
    threshold
        Grey value, 0 to 255, from which on a pixel is light; None is midway between the darkest and the
        lightest pixel of each drawing.
    min_area
        Components under this many pixels become background; how many is reported.

    Raises
    ------
    DataError
        As :func:`import_labels`, and where more than half of a drawing would be boundary.
    """

    def convert(sample: Sample) -> tuple[NDArray[np.int32], list[str]]:
        path = sample.label_path
        return _crystals_between(path, _lines(path, boundary, threshold), min_area)

    def line_px(sample: Sample) -> int:
        return _line_width(_lines(sample.label_path, boundary, threshold))

    layout = _layout(src, ("boundaries", "masks"), IMAGE_SUFFIXES)
    return _import(layout, dst, convert, line_px)


def import_colours(
    src: Source, dst: Path, *, background: tuple[int, int, int] = (0, 0, 0), connected: bool = False
) -> ImportReport:
    """Import colour maps: ``colours/``, ``colors/`` or ``masks/`` with one colour a crystal.

    Parameters
    ----------
    src, dst
        As in :func:`import_labels`.
    background
        The colour of what is no crystal, in the files' own depth.
    connected
        Whether each 4-connected component is a crystal of its own, for maps that use a colour again.

    Raises
    ------
    DataError
        As :func:`import_labels`, and where colours are blended by a lossy format or a resize.
    """

    def convert(sample: Sample) -> tuple[NDArray[np.int32], list[str]]:
        return _crystals_of_colours(sample.label_path, background, connected)

    return _import(_layout(src, ("colours", "colors", "masks"), IMAGE_SUFFIXES), dst, convert)


IMPORTERS: Mapping[str, Callable[..., ImportReport]] = MappingProxyType(
    {
        "labels": import_labels,
        "boundaries": import_boundaries,
        "colours": import_colours,
        "cellpose": import_cellpose,
        "coco": import_coco,
    }
)


def import_dataset(kind: str, src: Source, dst: Path, **options: Any) -> ImportReport:
    """Import ``src`` with the importer of :data:`IMPORTERS` that ``kind`` names; ``options`` are its own.

    Raises
    ------
    UnknownNameError
        Where there is no such importer, or it has no such option.
    ConfigurationError
        Where an option has a value that it cannot have.
    DataError
        As that importer.
    """
    if kind not in IMPORTERS:
        raise UnknownNameError("kind of label image", kind, IMPORTERS)
    importer = IMPORTERS[kind]
    known = inspect.signature(importer).parameters.keys() - {"src", "dst"}
    for option in options.keys() - known:
        raise UnknownNameError(f"option of the {kind} importer", option, known)
    try:
        return validate_call(importer)(src=src, dst=dst, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{first['loc'][0]} of the {kind} importer: {first['msg']}") from error


def _layout(src: Source, folders: Sequence[str], suffixes: frozenset[str]) -> Layout:
    if isinstance(src, tuple):
        images, labels = src
        return Layout(images.parent, images, labels, suffixes)
    found = [src / folder for folder in folders if (src / folder).is_dir()]
    if not found:
        names = " or ".join(f"{folder}/" for folder in folders)
        raise DataError(f"{src} has no folder {names}: put the label images there, beside images/")
    return Layout(src, src / "images", found[0], suffixes)


def _import(
    layout: Layout, dst: Path, convert: Convert, line_px: Callable[[Sample], int] | None = None
) -> ImportReport:
    return import_samples(layout.root, find_samples(layout), dst, convert, line_px)


def _lines(path: Path, boundary: Literal["dark", "light"], threshold: float | None) -> NDArray[np.bool_]:
    grey = read_image(path).mean(axis=2)
    level = (float(grey.min()) + float(grey.max())) / 2 if threshold is None else threshold
    lines: NDArray[np.bool_] = grey > level if boundary == "light" else grey < level
    if lines.mean() > _LINE_SHARE_LIMIT:
        other = "light" if boundary == "dark" else "dark"
        raise DataError(
            f"{path} would be {lines.mean():.0%} boundary with {boundary} lines: "
            f"set boundary to {other}, or choose another threshold"
        )
    return lines


def _crystals_between(path: Path, lines: NDArray[np.bool_], min_area: int) -> tuple[NDArray[np.int32], list[str]]:
    labels, _ = ndimage.label(~lines, output=np.int32)
    areas = np.bincount(labels.ravel())
    small = areas < min_area
    small[0] = False
    notes = [] if lines.any() else [f"{path.name}: nothing is drawn, the whole image is one crystal"]
    if small.any():
        notes.append(f"{path.name}: {small.sum()} components under {min_area} px became background")
        labels[small[labels]] = 0
    return compact(labels), notes


def _line_width(lines: NDArray[np.bool_]) -> int:
    centre = skeletonize(lines)
    if not centre.any():
        return 0
    # A straight line of width w at an angle a is w / sin(a) long in its rows and w / cos(a) in its columns.
    across, down = _run_lengths(lines)[centre], _run_lengths(lines.T).T[centre]
    return max(1, round(float(np.median(across * (down / np.hypot(across, down))))))


def _run_lengths(lines: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return for each pixel of ``lines`` how many of its row are drawn without a gap; 0 beside the lines."""
    steps = np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(np.int8).ravel())
    lengths = np.flatnonzero(steps == -1) - np.flatnonzero(steps == 1)
    result = np.zeros(lines.shape, np.int32)
    result[lines] = np.repeat(lengths, lengths)
    return result


def _crystals_of_colours(
    path: Path, background: tuple[int, int, int], connected: bool
) -> tuple[NDArray[np.int32], list[str]]:
    codes = _coded(read_colours(path), background)
    colours = compact(codes)
    areas = np.bincount(colours.ravel())[1:]
    if areas.size and np.median(areas) < _BLEND_AREA:
        raise DataError(f"{path} has {areas.size} colours of few pixels each: give a map without blended colours")
    components: NDArray[np.int32] = connected_components(colours, background=0, connectivity=1).astype(np.int32)
    extra = int(components.max()) - areas.size
    if connected:
        return components, []
    return colours, [f"{path.name}: {extra} more pieces than colours"] if extra else []


def _coded(pixels: NDArray[Any], background: tuple[int, int, int]) -> NDArray[np.int64]:
    # One integer a colour, one more than its bytes say, so that black can be a crystal on another background.
    wide = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.int64)
    codes: NDArray[np.int64] = (wide[..., 0] << 32) + (wide[..., 1] << 16) + wide[..., 2] + 1
    return np.where((wide == np.array(background)).all(axis=2), 0, codes)
