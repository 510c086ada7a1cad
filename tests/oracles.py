"""What perfect networks would say: the truth's own targets, decoded as each method does."""

from __future__ import annotations

from typing import Any

import test_boundary
import test_flow
import test_queries
import test_rtmdet

from crystalbench import Labels, Sample
from crystalbench.adapters import _boundary_decoding, _flow, _queries, boundary, rtmdet


def oracle_labels(segmenter: Any, sample: Sample) -> Labels:
    """Return what ``segmenter`` makes of the truth of ``sample``, at the stride and size of its own network."""
    return segmenter.decode(_raw(segmenter, sample), segmenter.decode_parameters)


def _raw(segmenter: Any, sample: Sample) -> Any:
    label = sample.label
    if isinstance(segmenter, _flow.FlowSegmenter):
        return test_flow.truth_field(label)
    if isinstance(segmenter, boundary.Boundary):
        regrow_px = _boundary_decoding.missing_px([label])
        return test_boundary.oracle_raw(label, sample.image, regrow_px)
    (parameters,) = segmenter.train.values()
    mode, side = segmenter.infer_parameters.mode, parameters.input_size
    if isinstance(segmenter, rtmdet.Rtmdet):
        return test_rtmdet.oracle_raw(label, mode, side)
    assert isinstance(segmenter, _queries.QuerySegmenter)
    return test_queries.oracle_raw(label, side, mode, parameters.queries)
