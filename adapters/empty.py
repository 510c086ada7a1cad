"""Control: no crystal at all, the lower end of every scale."""

from __future__ import annotations

import numpy as np

from crystalbench.segmenter import Image, Labels, Segmenter


class Empty(Segmenter):
    """Answer with background alone. Must score PQ 0."""

    def predict(self, image: Image) -> Labels:
        """Return H x W int32 zeros."""
        return np.zeros(image.shape[:2], np.int32)
