"""OneFormer (Jain et al. 2023) with a Swin-T backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crystalbench.segmenter import Component

from . import _queries
from ._query_parameters import OneFormerTrain

if TYPE_CHECKING:
    from ._query_networks import Library


class OneFormer(_queries.QuerySegmenter):
    """OneFormer of transformers, fine-tuned on crystals; it is asked for instances."""

    components = (Component("oneformer", OneFormerTrain),)

    def library(self) -> Library:
        """Return what is built from transformers."""
        from . import _oneformer

        return _oneformer.LIBRARY
