"""MaskFormer (Cheng et al. 2021) with a Swin-B backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalbench.segmenter import Component

from . import _queries
from ._query_parameters import MaskFormerTrain

if TYPE_CHECKING:
    from ._query_networks import Library


class MaskFormer(_queries.QuerySegmenter):
    """MaskFormer of transformers, fine-tuned on crystals."""

    components = (Component("maskformer", MaskFormerTrain),)

    def library(self) -> Library:
        """Return what is built from transformers."""
        from . import _maskformer

        return _maskformer.LIBRARY
