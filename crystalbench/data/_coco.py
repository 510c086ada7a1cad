"""Annotations in the JSON form of COCO, drawn into label maps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from skimage.draw import polygon as draw_polygon

from crystalbench._exceptions import DataError, UnknownNameError
from crystalbench.data._dataset import Layout, Row, Sample, read_manifest
from crystalbench.data._images import image_shape
from crystalbench.data._importing import ImportReport, import_samples
from crystalbench.data._run_lengths import decode_runs

_Mask = NDArray[np.bool_]
_Id = int | str
_Coordinate = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_Polygon = Annotated[list[_Coordinate], Field(min_length=6)]

_MOST_NAMED = 5
_FORM = "its form is that of cocodataset.org/#format-data"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Runs(_Part):
    size: tuple[int, int]
    counts: list[int] | str


class _Image(_Part):
    id: _Id
    file_name: str
    height: int | None = None
    width: int | None = None


class _Category(_Part):
    id: _Id
    name: str


def _kind(segmentation: Any) -> str:
    return "polygons" if isinstance(segmentation, list) else "runs"


class _Annotation(_Part):
    id: _Id | None = None
    image_id: _Id
    category_id: _Id | None = None
    iscrowd: bool = False
    segmentation: Annotated[
        Annotated[list[_Polygon], Tag("polygons")] | Annotated[_Runs, Tag("runs")], Discriminator(_kind)
    ]


class _File(_Part):
    images: list[_Image] = Field(min_length=1)
    annotations: list[_Annotation]
    categories: list[_Category] = []


def import_coco(src: Path, dst: Path, *, images: Path | None = None, categories: tuple[str, ...] = ()) -> ImportReport:
    """Import annotations in COCO's JSON: polygons and run lengths, each annotation one crystal.

    A pixel lies in a polygon where its centre does; what reaches over the image is cut. Where annotations overlap
    the smaller one has the pixels, the first of equals, so that a large one hides nothing; how many pixels these are is
    told. Crowd annotations are no crystals and left out.

    Parameters
    ----------
    src
        The JSON file, or a folder that holds one, there or in ``annotations/``; ``manifest.csv``, ``grains/`` and the
        like in that folder, or beside that file, are taken over.
    dst
        The data-set folder to make; it may exist if it is empty.
    images
        The folder of the images; None is the file's own, or ``images/`` in it or beside it.
    categories
        The names of those that are crystals; all where none is named.

    Raises
    ------
    UnknownNameError
        Where the file has no such category.
    DataError
        Where ``dst`` holds files, the file is no such JSON, images are missing, lie elsewhere or have another size,
        or annotations cannot be drawn; at least the first of each image is named.
    """
    path = _json_file(src)
    root = src if src.is_dir() else path.parent
    content = _read(path)
    chosen, notes = _chosen(path, content, categories)
    found = _found_images(path, content, images)
    members: defaultdict[str, list[_Annotation]] = defaultdict(list)
    names = {image.id: _stem(image) for image in content.images}
    for annotation in chosen:
        members[names[annotation.image_id]].append(annotation)

    def convert(sample: Sample) -> tuple[NDArray[np.int32], list[str]]:
        return _drawn(sample, members[sample.name])

    report = import_samples(root, _samples(root, path, found), dst, convert)
    return replace(report, notes=(*notes, *report.notes))


def _json_file(src: Path) -> Path:
    if not src.is_dir():
        return src
    found = sorted([*src.glob("*.json"), *src.glob("annotations/*.json")])
    if len(found) != 1:
        names = f": name one of {', '.join(str(file) for file in found)}" if found else ""
        raise DataError(f"{src} holds {len(found)} JSON files, where the coco importer reads one{names}")
    return found[0]


def _read(path: Path) -> _File:
    try:
        content = _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is no COCO file ({place}: {first['msg']}): {_FORM}") from error
    _check(path, "gives several images the id", [image.id for image in content.images])
    _check(path, "has several images called", [_stem(image) for image in content.images])
    known = {image.id for image in content.images}
    strays = [_name(one) for one in content.annotations if one.image_id not in known]
    if strays:
        raise DataError(f"{path} annotates images that it does not list: {_listed(strays)}")
    return content


def _check(path: Path, problem: str, values: Sequence[_Id]) -> None:
    twice = [str(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise DataError(f"{path} {problem} {_listed(twice)}: give each one of its own")


def _stem(image: _Image) -> str:
    return PurePosixPath(image.file_name).stem


def _name(annotation: _Annotation) -> str:
    return f"annotation {annotation.id} of image {annotation.image_id}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def _chosen(path: Path, content: _File, categories: Sequence[str]) -> tuple[list[_Annotation], list[str]]:
    """Return the annotations that are crystals, and how many others are left out."""
    known = {category.name for category in content.categories}
    for name in categories:
        if name not in known:
            raise UnknownNameError(f"category of {path}", name, known)
    wanted = {category.id for category in content.categories if category.name in categories}
    singles = [one for one in content.annotations if not one.iscrowd]
    chosen = [one for one in singles if not categories or one.category_id in wanted]
    crowds, others = len(content.annotations) - len(singles), len(singles) - len(chosen)
    notes = [f"{crowds} crowd annotations are left out: their pixels are background"] if crowds else []
    notes += [f"{others} annotations of other categories are left out"] if others else []
    return chosen, notes


def _found_images(path: Path, content: _File, folder: Path | None) -> list[Path]:
    for image in content.images:
        # Which has the drives and both separators: safe on every system.
        parts = PureWindowsPath(image.file_name)
        if parts.anchor or ".." in parts.parts:
            raise DataError(f"{path} names the image {image.file_name!r}: give a path below the folder of the images")
    here = path.parent
    candidates = [folder] if folder else [here, here / "images", here.parent / "images"]
    first = content.images[0].file_name
    chosen = next((place for place in candidates if (place / first).is_file()), candidates[0])
    found = [chosen / image.file_name for image in content.images]
    problems = [problem for file, image in zip(found, content.images, strict=True) for problem in _wrong(file, image)]
    if problems:
        raise DataError(f"{path} cannot be imported: {_listed(problems)}; another folder is given as images=FOLDER")
    return found


def _wrong(file: Path, image: _Image) -> Iterator[str]:
    if not file.is_file():
        yield f"{file} does not exist"
        return
    height, width = image_shape(file)
    if (image.height or height, image.width or width) != (height, width):
        yield f"{file} is {height} x {width}, not {image.height} x {image.width}"


def _samples(root: Path, path: Path, images: Sequence[Path]) -> list[Sample]:
    rows = {row.name: row for row in read_manifest(root) or ()}
    grains = Layout.of(root).grain_files()
    return sorted((_sample(path, image, rows, grains) for image in images), key=lambda sample: sample.name)


def _sample(path: Path, image: Path, rows: dict[str, Row], grains: dict[str, list[Path]]) -> Sample:
    row = rows.get(image.stem, Row(image.name))
    return Sample(
        name=image.stem,
        image_path=image,
        label_path=path,
        grain_path=grains[image.stem][0] if image.stem in grains else None,
        group=row.group or image.stem,
        um_per_px=row.um_per_px,
    )


def _drawn(sample: Sample, annotations: Sequence[_Annotation]) -> tuple[NDArray[np.int32], list[str]]:
    shape = sample.shape
    areas = [int(_mask(sample, annotation, shape).sum()) for annotation in annotations]
    labels, contested = np.zeros(shape, np.int32), np.zeros(shape, bool)
    # The smallest last, and the first of equals after the others.
    for index in sorted(range(len(annotations)), key=lambda index: (-areas[index], -index)):
        mask = _mask(sample, annotations[index], shape)
        contested |= mask & (labels > 0)
        labels[mask] = index + 1
    name, lost = sample.image_path.name, len(annotations) - np.count_nonzero(np.unique(labels))
    notes = [] if annotations else [f"{name}: has no annotation"]
    if contested.any():
        notes.append(f"{name}: {contested.sum()} px are claimed by several annotations and given to the smallest")
    if lost:
        notes.append(f"{name}: {lost} annotations have no pixel left, being outside, covered or too small")
    return labels, notes


def _mask(sample: Sample, annotation: _Annotation, shape: tuple[int, int]) -> _Mask:
    try:
        if isinstance(annotation.segmentation, _Runs):
            return _of_runs(annotation.segmentation, shape)
        return _of_polygons(annotation.segmentation, shape)
    except ValueError as error:
        raise DataError(f"{sample.label_path}: {_name(annotation)} cannot be drawn: {error}") from error


def _of_runs(runs: _Runs, shape: tuple[int, int]) -> _Mask:
    if runs.size != shape:
        raise ValueError(f"it is of {runs.size[0]} x {runs.size[1]}, its image of {shape[0]} x {shape[1]} pixels")
    return decode_runs(runs.counts, shape)


def _of_polygons(polygons: Sequence[Sequence[float]], shape: tuple[int, int]) -> _Mask:
    if not polygons:
        raise ValueError("it has no segmentation, a box alone is no crystal")
    mask = np.zeros(shape, bool)
    for coordinates in polygons:
        if len(coordinates) % 2:
            raise ValueError("a polygon has an x without its y")
        # COCO counts from the corner of the first pixel, the drawing from its centre.
        mask[draw_polygon(np.array(coordinates[1::2]) - 0.5, np.array(coordinates[::2]) - 0.5, shape)] = True
    return mask
