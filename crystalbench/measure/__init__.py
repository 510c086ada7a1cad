"""New micrographs: from a model that a run has trained and tested to sizes of crystals."""

from crystalbench.measure._images import Micrograph, find_micrographs
from crystalbench.measure._measured import Measured
from crystalbench.measure._model import Model, open_model
from crystalbench.measure._run import Measure, Measurement
from crystalbench.measure._summary import ImageSummary
from crystalbench.measure._tolerance import Tolerance, tolerance

__all__ = [
    "ImageSummary",
    "Measure",
    "Measured",
    "Measurement",
    "Micrograph",
    "Model",
    "Tolerance",
    "find_micrographs",
    "open_model",
    "tolerance",
]
