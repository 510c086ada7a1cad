"""What a row of the benchmarks is, and how two ways of doing the same work are timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    work
        What is done, and on how much.
    against
        What does it instead, with its version.
    ratio
        Median over pairs of calls of their seconds over ours, or what ``goal`` is about; None where it cannot be
        measured here, and ``agreement`` says why.
    goal
        What is asked for, in words.
    agreement
        How well the two results agree, in words, and whatever else belongs to the figure.
    """

    work: str
    against: str
    ratio: float | None
    goal: str
    agreement: str

    def to_json(self) -> dict[str, Any]:
        """Return the row by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """Two ways of doing the same work: what they returned last, and the seconds of every call."""

    ours: Any
    theirs: Any
    our_seconds: tuple[float, ...]
    their_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of their seconds over ours, call by call."""
        return statistics.median(
            theirs / ours for ours, theirs in zip(self.our_seconds, self.their_seconds, strict=True)
        )

    @property
    def seconds(self) -> str:
        """Medians of both, in words."""
        ours, theirs = statistics.median(self.our_seconds), statistics.median(self.their_seconds)
        return f"{ours:.3g} s against {theirs:.3g} s"


def side_by_side(ours: Callable[[], Ours], theirs: Callable[[], Theirs], repeats: int = 5) -> Pair:
    """Call both in turn, ``repeats`` times, after one call of each that is not counted."""
    ours(), theirs()
    return alternate(ours, theirs, repeats)


def alternate(ours: Callable[[], Ours], theirs: Callable[[], Theirs], repeats: int) -> Pair:
    """Call both in turn without a warm-up: for work of minutes."""
    found = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    return Pair(
        ours=found[-1][0][1],
        theirs=found[-1][1][1],
        our_seconds=tuple(ours[0] for ours, _ in found),
        their_seconds=tuple(theirs[0] for _, theirs in found),
    )


def timed(call: Callable[[], Ours]) -> tuple[float, Ours]:
    """Return the seconds of a call, and what it returned."""
    start = time.perf_counter_ns()
    result = call()
    return (time.perf_counter_ns() - start) / 1e9, result
