"""COCO's run-length code of masks.

pycocotools decodes it too, but in C that trusts what it is given: with more runs than pixels it writes past its
buffer, and with fewer pixels than the mask it returns memory as it was. Files of strangers are read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_ZERO, _BITS, _SIGN, _MORE = 48, 5, 0x10, 0x20
_MAX_CHARACTERS = 7


def decode_runs(counts: Sequence[int] | str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of ``shape`` (H x W) whose runs, down one column after the other, are ``counts`` pixels long.

    The first run is outside, the next inside, and so on. A text is COCO's compressed form of the same numbers.

    Raises
    ------
    ValueError
        Where the runs do not add up to the mask, or the text is no such code.
    """
    runs = list(_numbers(counts)) if isinstance(counts, str) else list(counts)
    height, width = shape
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"its runs do not add up to {height} x {width} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(shape, order="F")


def encode_runs(labels: NDArray[np.int32]) -> list[list[int]]:
    """Return the runs of each crystal's mask, as :func:`decode_runs` reads them; ``labels`` (H x W) are 1, 2, ..."""
    pixels = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=-1))
    runs = np.stack((starts, np.append(starts[1:], pixels.size)), axis=1)
    crystal = pixels[starts]
    # Stable: the runs of a crystal stay in the order of its pixels.
    order = np.argsort(crystal, kind="stable")[(crystal == 0).sum() :]
    borders = np.flatnonzero(np.diff(crystal[order])) + 1
    parts = np.split(runs[order], borders) if order.size else []
    return [np.diff(part.ravel(), prepend=0, append=pixels.size).tolist() for part in parts]


def _numbers(text: str) -> Iterator[int]:
    """Yield the runs of a compressed text; from the fourth on each is told as its difference to the last but one."""
    before = [0, 0, 0]
    for count, number in enumerate(_differences(text)):
        run = number + (before[-2] if count > 2 else 0)
        before = [*before[-2:], run]
        yield run


def _differences(text: str) -> Iterator[int]:
    """Yield signed numbers of five bits a character, the lowest first; a sixth says that more follow."""
    value = shift = 0
    for character in text:
        code = ord(character) - _ZERO
        if not 0 <= code < 2 * _MORE or shift == _BITS * _MAX_CHARACTERS:
            raise ValueError(f"it is no compressed run-length code at {character!r}")
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if not code & _MORE:
            yield value - (1 << shift) if code & _SIGN else value
            value = shift = 0
    if shift:
        raise ValueError("its compressed run-length code is cut off")
