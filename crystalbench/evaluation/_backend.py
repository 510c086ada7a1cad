"""Where the compiled kernels take the place of NumPy and scikit-image, which give the same numbers."""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

PAYS_AFTER_PX = 2**22
"""Pixels of overlap tables after which a process loads numba.

Loading it takes about as long as NumPy takes for 50 maps of 1800 x 1800. A script that scores one map never waits for
it; whoever scores a second one of that size mostly scores many.
"""

_counted_px = 0


def kernels_for_overlaps(pixels: int) -> ModuleType | None:
    """Return the compiled kernels where numba is loaded or this process has counted enough pixels, and else None."""
    global _counted_px
    _counted_px += pixels
    return kernels() if "numba" in sys.modules or _counted_px > PAYS_AFTER_PX else None


@cache
def kernels() -> ModuleType | None:
    """Return the compiled kernels, or None where numba is not installed or does not run here."""
    try:
        from crystalbench.evaluation import _compiled
    except (ImportError, RuntimeError):
        # numba refuses versions of NumPy that it does not know, and to work where it can write no cache.
        return None
    return _compiled


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view that cannot be written to: numba would compile a kernel again for arrays that can."""
    view = array.view()
    view.flags.writeable = False
    return view
