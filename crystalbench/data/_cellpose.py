"""What Cellpose leaves beside its images: ``STEM_seg.npy`` of its window, ``STEM_cp_masks.png`` of its command line."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalbench._exceptions import DataError
from crystalbench.data._classes import as_int32
from crystalbench.data._dataset import Layout, Sample, find_samples
from crystalbench.data._images import IMAGE_SUFFIXES, LABEL_SUFFIXES, check_label_array, files_by_stem, read_labels
from crystalbench.data._importing import ImportReport, import_samples
from crystalbench.data._pickles import array_of, read_pickled_dict

_SEG, _MASKS = "_seg", "_cp_masks"
_PICTURES = ("_outlines", "_flows", "_dP", "_cp_output")


def import_cellpose(src: Path, dst: Path) -> ImportReport:
    """Import a folder of images with ``STEM_seg.npy`` or ``STEM_cp_masks.png`` or ``.tif`` beside them.

    Where an image has both, its ``_seg.npy`` counts, which holds what was corrected by hand. These files are pickles:
    they are read as data, and one that names anything but NumPy's arrays is refused.

    Parameters
    ----------
    src
        The folder to read; ``manifest.csv``, ``grains/`` and the like are taken over.
    dst
        The data-set folder to make; it may exist if it is empty.

    Raises
    ------
    DataError
        Where ``dst`` holds files, an image has no masks, masks have no image, or any file cannot be used; all of
        them are named.
    """
    layout = _Beside(src, src, src)
    if not layout.label_files():
        raise DataError(f"{src} holds no STEM_seg.npy or STEM_cp_masks.png, which the cellpose importer reads")
    report = import_samples(src, find_samples(layout), dst, _convert)
    both = layout.masks(_SEG).keys() & layout.masks(_MASKS).keys()
    notes = [f"{len(both)} images have _seg.npy and _cp_masks: _seg.npy is taken"] if both else []
    return replace(report, notes=(*report.notes, *notes))


class _Beside(Layout):
    """Images and masks in one folder, told apart by the ends of their stems."""

    def image_files(self) -> dict[str, list[Path]]:
        found = files_by_stem(self.images, IMAGE_SUFFIXES)
        return {stem: files for stem, files in found.items() if not stem.endswith(_MASKS)}

    def label_files(self) -> dict[str, list[Path]]:
        return {**self.masks(_MASKS), **self.masks(_SEG)}

    def masks(self, ending: str) -> dict[str, list[Path]]:
        """Return the files of masks with one ending, by the stem of their image."""
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for stem, files in files_by_stem(self.labels, LABEL_SUFFIXES).items():
            image = stem.removesuffix(ending)
            if image != stem and not image.endswith(_PICTURES):
                found[image] += [file for file in files if (file.suffix.lower() == ".npy") == (ending == _SEG)]
        return {stem: files for stem, files in found.items() if files}


def _convert(sample: Sample) -> tuple[NDArray[np.int32], list[str]]:
    path = sample.label_path
    return as_int32(_read_seg(path) if path.suffix.lower() == ".npy" else read_labels(path)), []


def _read_seg(path: Path) -> NDArray[np.integer[Any]]:
    content = read_pickled_dict(path)
    if "masks" not in content:
        raise DataError(f"{path} holds no masks: save it again with Cellpose")
    return check_label_array(path, array_of(path, content["masks"]))
