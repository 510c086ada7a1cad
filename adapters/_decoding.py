"""From a flow field to labels, with Cellpose's own functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fastremap
import numpy as np
import torch
from cellpose import dynamics, utils
from numpy.typing import NDArray

from crystalbench.segmenter import Labels

from ._fast_decoding import flow_steps
from ._flow import FlowDecode, to_host

if TYPE_CHECKING:
    from ._flow import RawField


def decode_reference(field: RawField, parameters: FlowDecode, device: str) -> Labels:
    """Turn a field (3 x H x W) into H x W int32 labels.

    As :func:`cellpose.dynamics.compute_masks`, with steps enough for the largest crystal and without its
    upper bound on a crystal's share of the image.
    """
    field = to_host(field)
    masks = dynamics.compute_masks(
        field[:2],
        field[2],
        niter=flow_steps(field[2] > parameters.foreground_threshold),
        cellprob_threshold=parameters.foreground_threshold,
        flow_threshold=parameters.flow_threshold,
        max_size_fraction=1.0,
        # On a GPU the library divides by a side less one.
        device=torch.device(device if min(field.shape[1:]) > 1 else "cpu"),
    )
    return clean(masks, parameters.min_size) if parameters.min_size else np.asarray(masks, np.int32)


def clean(masks: NDArray[np.integer[Any]], min_size: int) -> Labels:
    """Drop masks (H x W) of fewer than ``min_size`` pixels and fill holes of background.

    By :func:`cellpose.utils.fill_holes_and_remove_small_masks`, which left alone also drops a wrong mask for
    every number that quality control took out, and gives a crystal that lies inside of another to that one.
    """
    numbered, _ = fastremap.renumber(masks, in_place=False)
    sizes = np.bincount(numbered.ravel())
    kept, _ = fastremap.renumber(np.where(sizes[numbered] < min_size, 0, numbered))
    filled = utils.fill_holes_and_remove_small_masks(kept.copy(), min_size=0)
    return np.where(kept > 0, kept, filled).astype(np.int32)
