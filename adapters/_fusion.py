"""How the fields of several scales become one; all on the device that they lie on."""

from __future__ import annotations

import torch
from torch import Tensor

VANISHING = 1e-3
"""Sum of attention below which it says nothing about a pixel."""


def by_attention(fields: Tensor, weights: Tensor) -> Tensor:
    """Average fields over scales with weights for each pixel (paper, section III-B2).

    Where the weights sum to less than ``VANISHING``, as in the background, all scales count alike.

    Parameters
    ----------
    fields
        N x 3 x H x W.
    weights
        N x H x W, the attention maps without that of the background, not negative.

    Returns
    -------
    Tensor
        3 x H x W.
    """
    total = weights.sum(dim=0)
    shares = torch.where(total < VANISHING, 1 / len(weights), weights / total.clamp(min=VANISHING))
    fused = torch.zeros_like(fields[0])
    for field, share in zip(fields, shares, strict=True):
        fused.addcmul_(field, share)
    return fused


def average(fields: Tensor) -> Tensor:
    """Average N x 3 x H x W fields over scales."""
    return fields.mean(dim=0)


def maximum(fields: Tensor) -> Tensor:
    """Take for each pixel the longest flow vector of all scales, and the highest logit."""
    longest = torch.hypot(fields[:, 0], fields[:, 1]).argmax(dim=0)
    flow = fields[:, :2].take_along_dim(longest[None, None], dim=0)[0]
    return torch.cat([flow, fields[:, 2].amax(dim=0)[None]])


FUSIONS = {"average": average, "maximum": maximum}
