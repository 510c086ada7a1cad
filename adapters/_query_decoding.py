"""From queries to labels, in bounded memory: one mask at a time is brought to the image's resolution.

The library's own post-processing of instances (transformers 5.23) ignores its threshold for masks, cuts them at the
network's resolution and lets the last of overlapping masks win.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from crystalbench.segmenter import Labels

from . import _windows
from ._queries import Answer, Answers
from ._query_parameters import QueryDecode

Mask = NDArray[np.bool_]


def decode(answers: Answers, parameters: QueryDecode) -> Labels:
    """Return H x W int32 labels, numbered from 1 without gaps: each window's, joined."""
    found = ((answer.window, decode_window(answer, parameters)) for answer in answers.windows)
    return _windows.join(found, answers.shape, parameters.min_size)


def decode_window(answer: Answer, parameters: QueryDecode) -> Labels:
    """Return the labels of one window.

    Queries are taken by falling score; each keeps what those before it left (as in the panoptic inference of Cheng
    et al. 2021, section 3.4, but in order of score rather than pixel by pixel).
    """
    rows, columns = answer.window
    labels = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.int32)
    scores = confidences(answer, parameters.mask_threshold)
    candidates = np.flatnonzero((scores > 0) & (scores >= parameters.score_threshold))
    for query in candidates[np.argsort(-scores[candidates], kind="stable")]:
        box, mask = mask_of(answer, int(query), logit(parameters.mask_threshold))
        added = mask & (labels[box] == 0)
        least = max(1, math.ceil(parameters.overlap_threshold * np.count_nonzero(mask)))
        if np.count_nonzero(added) >= least:
            labels[box][added] = query + 1
    return labels


def logit(probability: float) -> float:
    """Return the logit of a probability."""
    return math.log(probability / (1 - probability))


def confidences(answer: Answer, mask_threshold: float) -> NDArray[np.float64]:
    """Return the score of each query: its probability of a crystal times the mean probability inside its mask.

    The instance inference of Cheng et al. 2022 ("Masked-attention mask transformer", section 4), and of the code
    of Jain et al. 2023. It is computed at the network's resolution; a query without a mask scores 0.
    """
    scores = np.zeros(len(answer.scores))
    for query in range(len(scores)):
        logits = _plane(answer, query)
        inside = logits[logits > logit(mask_threshold)].astype(np.float64)
        if inside.size:
            scores[query] = answer.scores[query] * np.mean(1 / (1 + np.exp(-inside)))
    return scores


def mask_of(answer: Answer, query: int, threshold: float) -> tuple[tuple[slice, slice], Mask]:
    """Return where a query's mask lies in its window, and the mask there, from logits interpolated bilinearly.

    The box is that of the cells above ``threshold`` and one more on every side: outside of it every pixel
    lies between cells that are not.
    """
    logits = _plane(answer, query)
    above = logits > threshold
    box = (_pixels(above.any(axis=1), answer, 0), _pixels(above.any(axis=0), answer, 1))
    (down, across), (top, left) = answer.cells, (side.start for side in box)
    matrix = np.array([[across, 0, (left + 0.5) * across - 0.5], [0, down, (top + 0.5) * down - 0.5]])
    size = (box[1].stop - left, box[0].stop - top)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(logits, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return box, np.asarray(fine > threshold)


def _plane(answer: Answer, query: int) -> NDArray[np.float32]:
    # NumPy converts halves one by one, nine times slower.
    return np.asarray(torch.from_numpy(answer.logits[query]).float())


def _pixels(above: Mask, answer: Answer, axis: int) -> slice:
    """Return the pixels of the window that lie along marked cells and half of the next ones."""
    marked = np.flatnonzero(above)
    length = answer.window[axis].stop - answer.window[axis].start
    first = math.floor((marked[0] - 0.5) / answer.cells[axis])
    last = math.ceil((marked[-1] + 1.5) / answer.cells[axis])
    return slice(min(max(first, 0), length - 1), max(min(last, length), 1))
