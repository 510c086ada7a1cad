"""Choosing the threshold of the boundaries on the validation images."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from crystalbench._files import write_atomic
from crystalbench.evaluation import centre_lines, evaluate, line_cldice

from . import _boundary_decoding, _foreground, _loop
from ._boundary_parameters import BoundaryDecode, BoundaryInfer, BoundaryTrain, ThresholdTrain
from ._boundary_prediction import load_predictor

if TYPE_CHECKING:
    from crystalbench.data import Sample
    from crystalbench.segmenter import Context

Scores = NDArray[np.float64]

PAPER_THRESHOLD = 0.2
"""What the paper chose (section IV-B)."""

SCORES = "scores.npy"
"""Name of the file with the scores of the images that are done."""


def fit_threshold(
    parameters: ThresholdTrain,
    boundary: BoundaryTrain,
    train: Sequence[Sample],
    val: Sequence[Sample],
    context: Context,
) -> None:
    """Choose the boundary threshold on the validation images (section IV-B), and measure the training labels' line.

    Reads ``context.checkpoints["boundary"]``; predicts with the defaults of :class:`BoundaryInfer` and
    :class:`BoundaryDecode`, which a training does not know. Leaves ``checkpoint.safetensors`` with ``candidates`` and
    ``scores`` (K float64 each; the mean over images, NaN where no image has one), ``threshold`` and ``regrow_px`` (one
    value each). Without any score the threshold is the paper's, 0.2, with a warning. May be killed and called again:
    the scores of each image are kept.
    """
    context.initial_weights("random")
    if (context.folder / _loop.CHECKPOINT).is_file():
        return
    torch.set_num_threads(context.threads)
    regrow_px = _boundary_decoding.missing_px(sample.label for sample in train)
    scores = _mean(_image_scores(parameters, boundary, regrow_px, val, context))
    for candidate, score in zip(parameters.candidates, scores, strict=True):
        print(f"threshold {candidate:g}: {parameters.criterion} {score:.4f} on validation", file=sys.stderr, flush=True)
    threshold = _best(parameters, scores, context)
    chosen = {"candidates": parameters.candidates, "scores": scores, "threshold": threshold, "regrow_px": regrow_px}
    arrays = {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in chosen.items()}
    write_atomic(context.folder / _loop.CHECKPOINT, safetensors.numpy.save(arrays))
    (context.folder / SCORES).unlink(missing_ok=True)


def _image_scores(
    parameters: ThresholdTrain, boundary: BoundaryTrain, regrow_px: int, val: Sequence[Sample], context: Context
) -> Scores:
    """Return the score of each validation image with each candidate, n x K."""
    file, batch_size = context.folder / SCORES, BoundaryInfer().batch_size
    checkpoint = context.checkpoints["boundary"]
    predict = load_predictor(boundary.encoder, checkpoint, boundary.input_size, batch_size, context.device)
    rows: list[list[float]] = np.load(file).tolist() if file.is_file() else []
    for sample in val[len(rows) :]:
        rows.append(_score(parameters, predict(sample.image), sample, regrow_px))
        _keep(file, rows)
        context.report(len(rows), len(val))
    return np.reshape(rows, (-1, len(parameters.candidates)))


def _score(parameters: ThresholdTrain, probability: NDArray[np.float32], sample: Sample, regrow_px: int) -> list[float]:
    """Return how well the boundaries at each candidate, or the crystals that they enclose, agree with the truth."""
    truth, foreground = sample.label, _foreground.estimate_foreground(sample.image)
    found = [_boundary_decoding.find_lines(probability, threshold) for threshold in parameters.candidates]
    if parameters.criterion == "cldice":
        true_lines = centre_lines(truth)
        return [line_cldice(true_lines, lines & foreground) for lines in found]
    min_size = BoundaryDecode().min_size
    labels = [_boundary_decoding.enclosed(lines, foreground, regrow_px, min_size) for lines in found]
    return [evaluate(truth, predicted).pq for predicted in labels]


def _keep(file: Path, rows: Sequence[Sequence[float]]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(rows, np.float64))
    write_atomic(file, buffer.getvalue())


def _mean(scores: Scores) -> Scores:
    """Return the mean over images (n x K) of what is defined, NaN where nothing is."""
    defined = ~np.isnan(scores)
    count = defined.sum(axis=0)
    return np.divide(np.where(defined, scores, 0).sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def _best(parameters: ThresholdTrain, scores: Scores, context: Context) -> float:
    if np.isnan(scores).all():
        context.warn(
            f"no validation image has a {parameters.criterion} to choose the boundary threshold by; it is the paper's, "
            f"{PAPER_THRESHOLD}"
        )
        return PAPER_THRESHOLD
    return parameters.candidates[int(np.nanargmax(scores))]
