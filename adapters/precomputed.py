"""Label maps that any other tool has made, scored beside the methods that run here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import DirectoryPath, PositiveFloat

from crystalbench._exceptions import ConfigurationError, DataError
from crystalbench._files import file_sha256
from crystalbench.data import LABEL_SUFFIXES, files_by_stem
from crystalbench.segmenter import Image, Labels, Parameters, Segmenter

if TYPE_CHECKING:
    from crystalbench.data import Sample


class PrecomputedInfer(Parameters):
    """Where the label maps are, and what is known of their making.

    Attributes
    ----------
    folder
        One label map for each image, of the same stem (PNG, TIFF, NPY).
    latency_s
        Seconds that the tool took for one image, as its user measured them; null where nobody knows.
    """

    folder: DirectoryPath | None = None
    latency_s: PositiveFloat | None = None


class Precomputed(Segmenter):
    """Look the labels of an image up by its name. The time that takes is no latency."""

    Infer = PrecomputedInfer
    infer_parameters: PrecomputedInfer

    def reads(self, sample: Sample) -> list[Path]:
        """Return the label map of ``sample``, where there is one."""
        return self._files(sample.name)

    def latency(self, measured: float) -> float | None:
        """Return what was given by hand."""
        return self.infer_parameters.latency_s

    def predict_sample(self, sample: Sample) -> Labels:
        """Return the label map of the sample's name, H x W int32; 0 outside the grain, as in the truth.

        Raises
        ------
        ConfigurationError
            Where no folder is set.
        DataError
            Where the folder holds no label map for the sample, or two.
        LabelError
            Where the file is no label map (floats, negative values, channels) or not of the image's shape.
        """
        file = self._file(sample.name)
        self.details.update(file=file.name, sha256=file_sha256(file))
        return replace(sample, label_path=file).label

    def predict(self, image: Image) -> Labels:
        """Refuse: pixels have no name."""
        raise ConfigurationError("precomputed label maps belong to the images of a data set; they segment no others")

    def _file(self, name: str) -> Path:
        folder, files = self.infer_parameters.folder, self._files(name)
        if folder is None:
            raise ConfigurationError("precomputed needs infer.folder: the folder that holds the label maps")
        if not files:
            raise DataError(f"{folder} holds no label map for {name}: save it there as {name}.png, .tif or .npy")
        if len(files) > 1:
            raise DataError(f"{files[0]} and {files[1].name} beside it have one stem: keep one of them")
        return files[0]

    def _files(self, name: str) -> list[Path]:
        folder = self.infer_parameters.folder
        return [] if folder is None else files_by_stem(folder, LABEL_SUFFIXES).get(name, [])
